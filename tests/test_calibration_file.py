"""A file beside the target that a pass is calibrated with: seen by its step, part of its key by content, whatever its place."""

import pytest
from builder import verbs
from toy import Toy

PASS = '''"""As many numbers as the text has letters."""

from dataclasses import dataclass

ENVIRONMENT = "cpu"
READS = ("model.json",)


@dataclass(frozen=True)
class Options:
    calibration: str = ""


def run(src, out, o):
    text = (src / o.calibration).read_text()
    (out / "model.json").write_text(f"{o.calibration} {len(text)} {sorted(p.name for p in src.iterdir())}")
'''


@pytest.fixture
def toy(tmp_path) -> Toy:
    made = Toy(tmp_path)
    (made.root / "passes" / "calibrate.py").write_text(PASS)
    (made.root / "targets" / "words.txt").write_text("four")
    (made.root / "targets" / "texts").mkdir()
    (made.root / "targets" / "texts" / "calibration.txt").write_text("longer")
    made.target("x", [("begin", {}), ("calibrate", {"calibration": "words.txt"})])
    return made


def made(toy: Toy, name: str = "x") -> str:
    return (toy.dist(name) / "model.json").read_text()


def test_the_step_sees_it_and_runs_again_when_it_changes(toy):
    assert verbs(toy.run("build:x")) == {"begin": "ran", "calibrate": "ran"}
    assert made(toy) == "calibration.txt 4 ['calibration.txt', 'checkpoint', 'model.json']"
    assert verbs(toy.run("build:x")) == {}
    (toy.root / "targets" / "words.txt").write_text("other")
    told = next(line for line in toy.run("why", "build:x").splitlines() if "calibrate" in line)
    assert "run" in told and "inputs.calibration.txt: " in told and "made by" not in told
    assert verbs(toy.run("build:x")) == {"calibrate": "ran"} and made(toy).startswith("calibration.txt 5")


def test_the_same_text_at_another_place_is_the_same_work(toy):
    toy.run("build:x")
    (toy.root / "targets" / "texts" / "renamed.txt").write_text("four")
    toy.target("y", [("begin", {}), ("calibrate", {"calibration": "texts/renamed.txt"})])
    assert verbs(toy.run("build:y")) == {"calibrate": "restored"} and made(toy, "y") == made(toy)
    toy.target("z", [("begin", {}), ("calibrate", {})])
    assert verbs(toy.run("build:z")) == {"calibrate": "ran"}
    assert made(toy, "z") == "calibration.txt 6 ['calibration.txt', 'checkpoint', 'model.json']"


def test_a_missing_file_breaks_its_target_alone(toy):
    toy.target("other")
    (toy.root / "targets" / "words.txt").unlink()
    printed = toy.fail("build:x")
    assert (
        "targets/x.toml: [[pass]] 2 (calibrate): calibration = 'words.txt' is no file" in printed
        and "looked for beside the target" in printed
    )
    toy.run("build:other")
