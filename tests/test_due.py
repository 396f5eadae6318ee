"""`doit plan --since`: which targets no release has, found without a build or a fetch, and why."""

import json
import shutil

import pytest
from toy import CHAIN, Toy, weights

from onnxmake.build import paths, recipe
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.target import read_target

REPO = '# Hubbed.\ndevice = "cpu"\n[source]\nrepo = "a/b"\nrevision = "{}"\n[[pass]]\nuse = "begin"\n'


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Toy(tmp_path_factory.mktemp("due"))


@pytest.fixture
def toy(checkout, tmp_path):
    """A checkout with two targets, nothing built, and an empty folder of releases."""
    made = Toy.__new__(Toy)
    made.root = tmp_path / "checkout"
    shutil.copytree(checkout.root, made.root)
    super(Toy, made).__init__(tmp_path / "out", tmp_path / "cache")
    made.target("x", CHAIN)
    made.target("y", [("begin", {"width": 5}), ("finish", {})])
    (tmp_path / "releases").mkdir()
    return made


def due(toy: Toy, *names: str) -> list[str]:
    printed = toy.run("plan", "--since", str(toy.output.parent / "releases"), "--matrix", *names)
    name, _, listed = printed.strip().partition("=")
    assert name == "targets" and "\n" not in listed
    return json.loads(listed)


def reasons(toy: Toy) -> list[str]:
    return toy.run("plan", "--since", str(toy.output.parent / "releases")).splitlines()


def release(toy: Toy, *names: str, version: str = "1.0.0") -> None:
    """Provenance as a release of what there is now would have it."""
    program = f"""
import json, sys
from onnxmake.build import recipe
from onnxmake.build.tasks import load_plan
from onnxmake.build.files import canonical_json, write_atomically
from pathlib import Path
plan = load_plan()
for name in {names!r}:
    made = recipe.of({{name: plan.targets[name][1]}})
    steps = {{name: [step | {{"key": "0"}} for step in made["steps"][name]]}}
    built = {{"externalParameters": {{"release": name, "version": {version!r}}},
              "internalParameters": {{"steps": steps, "origin": made["origin"]}}}}
    file = Path({str(toy.output.parent / "releases")!r}, name + "@" + {version!r}, "provenance.intoto.json")
    write_atomically(file, canonical_json({{"predicate": {{"buildDefinition": built}}}}))
"""
    process = toy.start("-c", program, program=())
    printed, _ = process.communicate()
    assert process.returncode == 0, printed


def edit(file, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_without_a_release_all_are_due_and_with_theirs_none(toy):
    assert due(toy) == ["x", "y"] and due(toy, "build:y") == ["y"]
    release(toy, "x")
    assert due(toy) == ["y"]
    release(toy, "y")
    assert due(toy) == []
    assert reasons(toy) == ["nothing is due: every recipe is that of a release"]
    assert not (toy.output / "build" / "steps").exists()  # nothing was built to find that out


def test_every_kind_of_change_is_seen_and_said_and_taken_back_it_is_none(toy):
    release(toy, "x", "y")
    changes = {
        "passes/scale.py": ("n * o.factor", "o.factor * n", "x", "scale: code: "),
        "targets/y.toml": ("width = 5", "width = 6", "y", "begin: options.width: 5 -> 6"),
        "targets/x.toml": ('[[pass]]\nuse = "scale"\n', "", "x", "passes: begin, scale, finish -> begin, finish"),
        "targets/checkpoint/config.json": ("3", "4", "xy", "source: files.architecture.json: "),
        "containers/cpu/requirements.lock": ("nothing", "a change", "xy", "begin: environment.lock: "),
        "onnxmake/model/step.py": ('"""What', '"""Now what', "xy", "begin: code: "),
    }
    for name, (old, new, changed, why) in changes.items():
        file = toy.root / name
        before = file.read_text()
        edit(file, old, new)
        said = reasons(toy)
        assert [line[0] for line in said] == [*changed], name
        assert all(line.startswith(f"{line[0]}: since 1.0.0: {why}") for line in said), said
        file.write_text(before)
    (toy.root / "targets" / "checkpoint" / "model.safetensors").write_bytes(weights(bytes(16)))
    assert due(toy) == ["x", "y"]
    (toy.root / "targets" / "checkpoint" / "model.safetensors").write_bytes(weights())
    edit(toy.root / "targets" / "x.toml", "# x.", "# Another description.")
    assert due(toy) == []


def test_of_several_releases_any_counts_and_the_nearest_is_told(toy):
    release(toy, "x", "y")
    edit(toy.root / "targets" / "y.toml", "width = 5", "width = 7")
    edit(toy.root / "passes" / "finish.py", "* 4", "* 5")
    release(toy, "y", version="2.0.0")
    edit(toy.root / "passes" / "finish.py", "* 5", "* 6")
    assert reasons(toy)[1].startswith("y: since 2.0.0: finish: code: ")
    edit(toy.root / "passes" / "finish.py", "* 6", "* 4")
    assert due(toy) == ["y"]
    edit(toy.root / "targets" / "y.toml", "width = 7", "width = 5")
    assert due(toy) == []


def test_what_cannot_be_built_is_due_as_its_build_will_say_why(toy):
    release(toy, "x", "y")
    (toy.root / "targets" / "checkpoint" / "config.json").write_text("[")
    said = reasons(toy)
    assert [line.split(": ")[:3] for line in said] == [
        [name, "it will fail", "config.json is not a JSON object"] for name in "xy"
    ]


def test_a_broken_target_is_not_left_out(toy):
    (toy.root / "targets" / "z.toml").write_text("device = 1\n")
    assert "device is not written as" in toy.fail("plan", "--since", str(toy.output), "--matrix")
    assert toy.run("plan", "--since", str(toy.output), "--matrix", "x") == 'targets=["x"]\n'


def test_the_word_build_stands_for_all_releases_of_several_targets_too(toy):
    (toy.root / "targets" / "all.release.toml").write_text('# Several.\ntargets = ["x"]\n')
    assert due(toy) == due(toy, "build") == ["x", "y", "all"]
    assert due(toy, "all") == ["all"] and due(toy, "build", "y") == ["y"]
    release(toy, "x", "y")
    assert due(toy) == due(toy, "build") == ["all"]
    (toy.root / "targets" / "z.toml").write_text("device = 1\n")
    assert "device is not written as" in toy.fail("plan", "--since", str(toy.output), "build")


def test_a_folder_that_is_none_and_a_damaged_provenance_are_errors(toy):
    assert "is no folder" in toy.fail("plan", "--since", "nowhere")
    release(toy, "x")
    (file,) = (toy.output.parent / "releases").rglob("*.json")
    for text in ("{", "{}", "[]", '{"predicate": {"buildDefinition": 1}}'):
        file.write_text(text)
        assert "is no provenance of a release" in toy.fail("plan", "--since", str(file.parent))


def test_a_release_that_tells_no_recipe_leaves_its_target_due(toy):
    release(toy, "x", "y")
    for file in (toy.output.parent / "releases").rglob("*.json"):
        told = json.loads(file.read_text())
        del told["predicate"]["buildDefinition"]["internalParameters"]["origin"]
        file.write_text(json.dumps(told))
    assert reasons(toy) == ["x: 1.0.0 tells no recipe", "y: 1.0.0 tells no recipe"]


def test_a_checkpoint_on_the_hub_is_known_by_its_commit_and_not_fetched(toy):
    file = toy.root / "targets" / "hubbed.toml"
    file.write_text(REPO.format("0" * 40))
    toy.settings["HF_ENDPOINT"] = "http://127.0.0.1:9"  # where nobody answers
    release(toy, "hubbed")
    assert due(toy, "hubbed") == []
    file.write_text(REPO.format("1" * 40))
    assert f"source: revision: {'0' * 40} -> {'1' * 40}" in reasons(toy)[0]


def test_no_recipe_holds_a_path_or_an_input_that_a_step_makes():
    target = read_target(paths.TARGETS / "tiny-gptq-cpu.toml")
    made = recipe.of({"x": steps_of(target, checkpoint_of(target))})
    assert str(paths.ROOT) not in json.dumps(made)
    inputs = {step["pass"]: [*step["inputs"]] for step in made["steps"]["x"]}
    assert inputs["export"] == [] and inputs["package_genai"] == [] and inputs["quantize_gptq"] == ["calibration.txt"]
