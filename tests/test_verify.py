"""doit verify: a second build beside the first, in a real second place, and with results that differ in each way."""

import contextlib
import json
import os
import shutil
import time
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest
from builder import Builder, verbs
from toy import Toy, leftovers

from onnxmake.build import execute, paths, results, second, verify
from onnxmake.build.digest import digest_file
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.store import put
from onnxmake.build.target import read_target
from onnxmake.errors import CheckFailed

NAME = "tiny-int8-cpu"


def manifest(builder, name):
    return json.loads((builder.dist(name) / "manifest.json").read_text())


@pytest.mark.slow
def test_the_tiny_target_is_the_same_when_it_is_built_elsewhere(tmp_path):
    builder = Builder(tmp_path)
    printed = builder.run(f"verify:{NAME}")
    before, _, report = printed.partition(f"verify:{NAME}: ")
    steps = ["export", "optimize", "quantize_rtn", "package_genai"]
    assert verbs(before.partition(f"build:{NAME}: ")[2]) == dict.fromkeys(
        steps, "ran"
    )  # graphs that travel stay behind
    found = manifest(builder, NAME)["reproduced"]
    assert [(one["pass"], one["verdict"]) for one in found["steps"]] == [(name, "byte-equal") for name in steps]
    assert all(one["runners"][1] in ("venv", "docker") for one in found["steps"])
    assert [line.split()[:2] for line in report.splitlines() if line.startswith("  ")] == [
        [name, "byte-equal"] for name in steps
    ]
    assert {"HOME", "LC_ALL", "OMP_NUM_THREADS", "checkout", "umask"} <= set(found["varied"])
    assert str(tmp_path) not in json.dumps(found) and str(paths.ROOT) not in json.dumps(found)
    assert f"build:{NAME}: up to date" in builder.run(f"build:{NAME}") and not (tmp_path / "build" / "verify").exists()


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    """With passes whose results differ by what a step's process has of the caller's variables: his number of threads."""
    toy = Toy(tmp_path_factory.mktemp("verify"))
    threads = "import os\nthreads = os.environ['OMP_NUM_THREADS']\n"
    toy.settings["OMP_NUM_THREADS"] = "2"
    copy = "(out / 'model.json').write_bytes((src / 'model.json').read_bytes())\n"
    toy.write_pass("other_files", threads + copy + "(out / f'{threads}.txt').write_text('x')")
    toy.write_pass("other_end", threads + copy + "assert threads == '2', 'only with two'")
    toy.write_pass("waits", threads + copy + "import time\nif threads == '1': time.sleep(60)")
    return toy


def test_what_a_second_build_has_otherwise_changes_no_toy(toy):
    toy.target("same")
    assert list(verbs(toy.run("verify:same")).values()) == ["ran"] * 3  # built first, then again
    steps = manifest(toy, "same")["reproduced"]["steps"]
    assert [one["verdict"] for one in steps] == ["byte-equal"] * 3
    assert [one["runners"] for one in steps] == [["venv", "venv"]] * 3
    assert leftovers(toy) == [] and not (toy.output / "build" / "verify").exists()
    printed = toy.run("verify:same")  # nothing is taken from the store, also of what was verified before
    assert "build:same: up to date" in printed and list(verbs(printed).values()) == ["ran"] * 3
    assert "verify:same: the second" in toy.run("verify")


def test_another_build_is_not_verified_yet(toy):
    toy.target("edited")
    toy.run("verify:edited")
    assert manifest(toy, "edited")["reproduced"]
    toy.target("edited", (("begin", {"width": 5}), ("finish", {})))
    toy.run("build:edited")
    assert manifest(toy, "edited")["reproduced"] is None


def test_targets_and_checkpoints_outside_of_the_checkout_are_found(toy, tmp_path):
    toy.target("outside")
    shutil.move(toy.root / "targets" / "outside.toml", tmp_path / "outside.toml")
    shutil.copytree(toy.root / "targets" / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.json").write_text('{"size": 5}')
    toy.settings["ONNXMAKE_TARGETS"] = str(tmp_path)
    try:
        toy.run("verify:outside")
        assert json.loads((toy.dist("outside") / "model.json").read_text()) == [0, 10, 20, 30]
        assert {one["verdict"] for one in manifest(toy, "outside")["reproduced"]["steps"]} == {"byte-equal"}
    finally:
        del toy.settings["ONNXMAKE_TARGETS"]


def test_a_file_that_only_one_build_has_fails(toy):
    toy.target("files", (("begin", {}), ("other_files", {}), ("scale", {})))
    printed = toy.fail("verify:files")
    assert "files is not reproducible: other_files gives something else, 1.txt is in the second build only." in printed
    found = manifest(toy, "files")["reproduced"]["steps"]
    assert [one["verdict"] for one in found] == ["byte-equal", "different", "byte-equal"]
    kept = toy.output / "build" / "verify" / "files" / "1-other_files"
    assert sorted(os.listdir(kept / "first")) == ["2.txt", "model.json"] and (kept / "second" / "1.txt").exists()
    assert leftovers(toy) == [] and "build:files: up to date" in toy.run("build:files")


def test_what_was_measured_may_be_another_each_time_but_nothing_beside_it(toy):
    """A pass with MACHINE: the file with its answer may differ, no other."""
    keep = "import os\n(out / 'model.json').write_bytes((src / 'model.json').read_bytes())\n"
    for name, file in {"answer": "'session_options.json'", "more": "os.environ['OMP_NUM_THREADS']"}.items():
        toy.write_pass(name, f"{keep}(out / {file}).write_text(os.environ['OMP_NUM_THREADS'])", head="MACHINE = True")
        toy.target(name, (("begin", {}), (name, {})))
    printed = toy.run("verify:answer")
    assert "the fastest of what was tried may be another each time" in printed
    assert [one["verdict"] for one in manifest(toy, "answer")["reproduced"]["steps"]] == ["byte-equal", "measured"]
    assert "build only" in toy.fail("verify:more")


def test_a_second_build_that_fails_is_told_with_its_own_error(toy):
    toy.target("ends", (("begin", {}), ("other_end", {})))
    printed = toy.fail("verify:ends")
    assert "The second build of ends failed" in printed and "only with two" in printed
    assert manifest(toy, "ends")["reproduced"] is None and leftovers(toy) == []


def test_a_verification_that_is_ended_leaves_nothing(toy):
    toy.target("waits", (("begin", {}), ("waits", {})))
    process = toy.start("verify:waits")
    deadline = time.monotonic() + 60
    while not list(toy.output.glob("build/.tmp/*/*/output/build/logs/waits-*.log")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + 15 and leftovers(toy) == []


def test_what_is_not_there_is_told(toy, tmp_path):
    assert "No target is named 'nosuch'" in toy.fail("verify:nosuch")
    printed = Toy(toy.root.parent, toy.cache, tmp_path).run("verify", code=2)
    assert "Nothing is built yet." in printed and "doit verify:NAME builds a target and verifies it." in printed


@pytest.mark.parametrize(
    ("ran", "images", "venvs", "expected"),
    [
        (("venv", "venv"), True, True, "docker"),
        (("venv", "venv"), False, True, "venv"),
        (("store", "venv"), True, True, "docker"),
        (("store", "docker"), False, True, "venv"),
        (("docker", "docker"), True, True, "venv"),
        (("docker", "store", "docker"), True, True, "venv"),
        (("store", "store"), True, True, "docker"),
        (("docker", "docker"), True, False, "docker"),
    ],
)
def test_the_second_build_runs_in_what_the_first_did_not(monkeypatch, ran, images, venvs, expected):
    use = SimpleNamespace(declaration=SimpleNamespace(environment="cpu"))
    monkeypatch.setattr(second.runner, "available", lambda name: "docker" if images else "venv")
    monkeypatch.setattr(second.environment, "is_ready", lambda name: venvs)
    steps: Any = [SimpleNamespace(use=use, record={"runner": name}) for name in ran]
    assert second.runner_for(steps) == expected


def test_what_is_so_already_is_varied_otherwise(monkeypatch):
    for name, (wanted, _) in second.VARIABLES.items():
        monkeypatch.setenv(name, wanted)
    found = second.varied()
    assert all(found[name] == otherwise for name, (_, otherwise) in second.VARIABLES.items())


@pytest.mark.docker
def test_what_venvs_built_is_the_same_in_containers(tmp_path):
    builder = Builder(tmp_path / "out", tmp_path / "cache")
    (tmp_path / "cache" / "images").symlink_to(paths.CACHE / "images")
    builder.run(f"verify:{NAME}")
    found = manifest(builder, NAME)["reproduced"]["steps"]
    assert [one["verdict"] for one in found] == ["byte-equal"] * 4
    assert [one["runners"] for one in found] == [["store", "docker"], *[["venv", "docker"]] * 3]


@pytest.fixture
def again(delivered, monkeypatch, tmp_path):
    """First, `run({step: change})`, which verifies tiny-int8-cpu against a second build of the same results, but for what a function
    changes in a step's folder; then what the manifest says of each step."""
    target = read_target(paths.TARGETS / f"{NAME}.toml")
    steps = steps_of(target, checkpoint_of(target))
    execute.make_source(steps[0].checkpoint)

    def run(changes):
        def build(target, steps, work):
            records = [dict(step.record) for step in steps]
            for name, change in changes.items():
                i = [step.name for step in steps].index(name)
                folder = tmp_path / name
                verify.store.lay_out(records[i]["files"], folder, link=False)
                change(folder)
                files = {p.name: [digest_file(p), p.stat().st_size] for p in folder.iterdir()}
                for p in list(folder.iterdir()):
                    put(p, files[p.name][0], work / "cache" / "store")
                records[i]["files"] = files
            return records

        monkeypatch.setattr(second, "place", lambda: contextlib.nullcontext(tmp_path / "work"))
        monkeypatch.setattr(second, "build", build)
        verify.verify(target, steps)

    def verdicts():
        return {one["pass"]: one for one in results.delivered(target)["reproduced"]["steps"]}

    return run, verdicts


def rewritten(change):
    """A change of a step's graph, saved as onnx_ir writes it."""

    def act(folder):
        model = ir.load(folder / "model.onnx")
        change(model)
        ir.save(model, folder / "model.onnx")

    return act


def test_a_graph_that_is_only_written_otherwise_is_equal(again, capsys):
    run, verdicts = again

    def otherwise(model):
        model.producer_version = "another"
        for node in model.graph:
            node.name += "x"

    run({"optimize": rewritten(otherwise)})
    found = verdicts()
    assert found["optimize"]["verdict"] == "graph-equal" and found["optimize"]["detail"] == "model.onnx"
    assert {found[name]["verdict"] for name in ("export", "quantize_rtn", "package_genai")} == {"byte-equal"}
    assert "optimize         graph-equal" in capsys.readouterr().out
    assert not (paths.BUILD / "verify" / NAME).exists()


def test_a_node_that_differs_is_named(again):
    run, verdicts = again

    def another(model):
        next(n for n in model.graph if "epsilon" in n.attributes).attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.5)

    with pytest.raises(
        CheckFailed, match=r"optimize gives something else, model.onnx: node \w+ of the first: .* epsilon\."
    ):
        run({"optimize": rewritten(another)})
    assert verdicts()["optimize"]["verdict"] == "different"
    assert (paths.BUILD / "verify" / NAME / "1-optimize" / "second" / "model.onnx").exists()


def nudged(by):
    """A float of the model's weights, beside the graph, times 1 + `by`."""

    def act(folder):
        model = ir.load(folder / "model.onnx")
        held = [v.const_value for v in model.graph.initializers.values()]
        tensor = next(t for t in held if isinstance(t, ir.ExternalTensor) and t.dtype == ir.DataType.FLOAT)
        array = tensor.numpy().copy()
        array.reshape(-1)[0] *= 1 + by
        with open(folder / tensor.location, "r+b") as file:
            file.seek(tensor.offset)
            file.write(array.tobytes())

    return act


@pytest.mark.parametrize(("by", "verdict"), [(1e-6, "numerically equal"), (0.5, "different")])
def test_a_value_that_differs_is_told_with_its_tensor_and_by_how_much(again, by, verdict):
    run, verdicts = again
    with pytest.raises(CheckFailed, match="package_genai") if verdict == "different" else contextlib.nullcontext():
        run({"package_genai": nudged(by)})
    found = verdicts()["package_genai"]
    assert found["verdict"] == verdict
    assert found["detail"].startswith("model.onnx.data: tensor ") and "1 of " in found["detail"]
    assert ", by " in found["detail"] and "at most, of values up to" in found["detail"]
