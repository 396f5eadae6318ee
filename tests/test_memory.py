"""How large each step's process was: recorded with what it made, shown where steps run and where targets are compared."""

import json
import re
import subprocess
import sys

import pytest
from toy import Toy, tree

from onnxmake.build import history, paths, rows, store
from onnxmake.build.files import digest_text
from onnxmake.build.target import read_target

LARGE = 'data = b"x" * 200_000_000\n(out / "model.json").write_bytes((src / "model.json").read_bytes())'
CHILD = (
    'import os\nif not (child := os.fork()):\n    data = b"x" * 200_000_000\n    os._exit(0)\nos.waitpid(child, 0)\n'
)
COPY = '(out / "model.json").write_bytes((src / "model.json").read_bytes())'


def recorded(toy: Toy) -> dict[str, int]:
    """Step -> bytes, as the manifests under build/steps say."""
    found = (toy.output / "build" / "steps").iterdir()
    return {path.name.split("-")[0]: json.loads(path.read_text())["record"]["memory"] for path in found}


def test_each_step_s_own_peak_is_recorded_and_shown_and_is_no_part_of_what_is_delivered(tmp_path):
    toy = Toy(tmp_path)
    toy.write_pass("large", LARGE)
    toy.write_pass("child", CHILD + COPY)
    name = toy.target("x", [(step, {}) for step in ("begin", "large", "child", "finish")])
    shown = toy.run(name)
    memory = recorded(toy)
    assert all(200e6 < memory[step] < 300e6 for step in ("large", "child"))
    assert all(1e6 < memory[step] < 100e6 for step in ("begin", "finish"))  # also behind a large one
    assert f"{memory['large'] / 1e6:,.0f} MB" in re.search(r"large +ran .*", shown)[0]
    assert "memory" not in (toy.output / "dist" / "x" / "manifest.json").read_text()
    other = Toy(tmp_path, toy.cache, tmp_path / "other")
    assert " MB" not in re.search(r"large +restored .*", other.run(name))[0]  # what it took then, not now
    assert recorded(other) == memory and tree(other.output / "dist") == tree(toy.output / "dist")


def test_what_started_a_process_does_not_count():
    held = b"x" * 200_000_000
    code = "from onnxmake.model.memory import peak_bytes; print(peak_bytes())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=paths.ROOT)
    assert held and 1e6 < int(said.stdout) < 100e6


@pytest.mark.parametrize("memory", [None, 310_000_000])
def test_an_entry_may_tell_it_and_one_that_does_not_is_as_good(output, tmp_path, memory):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("a")
    made = store.commit("key", {}, tmp_path / "made", 1.5, {}, memory=memory)
    assert made == store.find("key") and made.memory == memory
    assert made.files == {"a": [digest_text("a"), 1]}


@pytest.mark.parametrize(
    ("memory", "told"), [((3e8, 2e8), {"build": 3.5, "peak": 300}), ((3e8, None), {"build": 3.5}), ((), {})]
)
def test_a_target_costs_the_time_of_all_steps_and_the_memory_of_the_largest(monkeypatch, memory, told):
    target = read_target(paths.TARGETS / "tiny-int4-cpu.toml")
    made = [("step", {"key": f"{i}", "seconds": 1.25 + i, "memory": m}) for i, m in enumerate(memory)]
    if None in memory:
        del made[1][1]["memory"]  # of a manifest that is older
    monkeypatch.setattr(history, "chain", lambda name: made)
    assert rows._cost(target, {"steps": [{"key": "0"}, {"key": "1"}]}) == told
