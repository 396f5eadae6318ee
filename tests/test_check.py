"""doit check: a twin after a target's passes, against Transformers; and builds of what is not proven."""

import json
import re
import shutil

import pytest
from builder import Builder, passes
from twins import make_twin

from onnxmake.build import check, execute, paths, runner
from onnxmake.build.plan import checkpoint_of
from onnxmake.build.target import read_target
from onnxmake.errors import CheckFailed

USERS = paths.CACHE


def test_the_tiny_target_is_right_on_a_twin(tmp_path):
    printed = Builder(tmp_path).run("check:tiny-int4-cpu")
    errors = re.search(r"right on a twin \(prefill (\S+), decode (\S+); at most 1e-04\)", printed)
    assert errors is not None and 0 < float(errors[1]) < 1e-4


@pytest.mark.parametrize(
    ("worst", "right"), [(9e-5, True), (2e-4, False), (float("nan"), False), (float("inf"), False)]
)
def test_a_twin_that_differs_by_more_than_the_tolerance_fails(output, tmp_path, monkeypatch, worst, right):
    paths.CACHE.mkdir(parents=True)
    (paths.CACHE / "envs").symlink_to(USERS / "envs")
    target = read_target(paths.TARGETS / "tiny-fp32-cpu.toml")
    checkpoint = checkpoint_of(target)
    execute.make_source(checkpoint)
    real, asked = runner.run, []

    def run(job, action, *rest, **options):
        if "graph" not in action:
            return real(job, action, *rest, **options)
        asked.append(action["device"])
        return {"prefill": worst, "decode": 1e-6}

    shutil.copytree(paths.TARGETS / "tiny", tmp_path / "twin")
    monkeypatch.setattr(check, "_twin", lambda target, checkpoint: tmp_path / "twin")
    monkeypatch.setattr(runner, "run", run)
    if right:
        check.check(target, checkpoint)
    else:
        with pytest.raises(CheckFailed, match="tiny-fp32-cpu: its twin computes something else"):
            check.check(target, checkpoint)
    assert asked == ["cpu"]


def test_an_architecture_without_proof_is_refused_and_builds_only_as_unproven(tmp_path):
    folder = make_twin("inkling_text", tmp_path / "checkpoint")  # whose sliding windows are its own
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((paths.TARGETS / "tiny" / name).read_bytes())
    builder = Builder(tmp_path / "out")
    name = builder.target("own", folder, passes("export", "optimize", "package_genai"))
    printed = builder.fail(name)
    assert "own.toml: inkling_text is not proven right on cpu" in printed and "doit sweep:inkling_text" in printed
    assert "cpu: WRONG" in printed and "export" not in printed
    file = builder.output / "targets" / "own.toml"
    file.write_text(file.read_text().replace('device = "cpu"', 'device = "cpu"\nunproven = true'))
    builder.run(name)
    assert json.loads((builder.dist("own") / "manifest.json").read_text())["proof"] == "unproven: inkling_text on cpu"


def test_manifests_say_what_proves_them(built):
    proof = json.loads((built.dist("tiny-int4-cpu") / "manifest.json").read_text())["proof"]
    assert re.fullmatch(r"qwen2 on cpu: right \S+, \d{4}-\d\d-\d\d", proof)
