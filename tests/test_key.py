"""The key of a step: each thing its result depends on changes it, by name, and nothing else does."""

import dataclasses
import json
import shutil

import pytest

from onnxmake.build import declaration, key, paths
from onnxmake.build.files import canonical_json, digest_text, write_record
from onnxmake.build.plan import Step
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Source, Use
from onnxmake.errors import CheckpointError, StoreError

CHECKPOINT = (
    "config.json",
    "generation_config.json",
    "architecture.json",
    "tensors.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)


def forget():
    key.look_again()


def use_checkout(root, monkeypatch):
    for folder in ("onnxmake", "passes", "containers"):
        shutil.copytree(paths.ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, path in {"ROOT": root, "PASSES": root / "passes", "CONTAINERS": root / "containers"}.items():
        monkeypatch.setattr(paths, name, path)
    forget()


@pytest.fixture
def checkout(output, tmp_path, monkeypatch):
    """A copy of the checkout, which a test may change."""
    use_checkout(tmp_path / "checkout", monkeypatch)
    yield tmp_path / "checkout"
    forget()


def sha(text: str) -> str:
    return digest_text(text)


def make(name, before=("export",), options=None, may_skip=False, folder="weights", **content) -> Step:
    """A step behind `before` on a checkpoint of files that hold their name, or what `content` says.

    None there leaves a file out.
    """
    texts = {file: content.get(file, file) for file in CHECKPOINT}
    checkpoint = Checkpoint(Source(path=folder), paths.OUTPUT / folder)
    files = {file: sha(text) for file, text in texts.items() if text is not None}
    write_record(checkpoint.manifest, {"folder": str(checkpoint.folder), "files": files, "saved_by": None})
    step = None
    for each in (*before, name):
        declared = declaration.declaration(each)
        values = {"device": "cpu"} if "device" in declared.options.__dataclass_fields__ else {}
        step = Step(
            Use(
                declared,
                declared.options(**(values | (options or {}) if each == name else values)),
                may_skip and each == name,
            ),
            checkpoint,
            step,
        )
        if each != name:
            made = {file: [sha(content.get(file, file)), 9] for file in ("model.onnx", "extra.json")}
            write_record(step.manifest, {"key": content.get("upstream", "key"), "explained": {}, "files": made})
    return step


def explain(*args, **options) -> dict:
    forget()
    return key.explain(make(*args, **options))


def append(file, text="\n# changed\n"):
    file.write_text(file.read_text("utf-8") + text, "utf-8")


@pytest.mark.parametrize(
    "name, file, leaf",
    [
        ("optimize", "passes/optimize.py", "code.passes/optimize.py"),
        ("optimize", "onnxmake/model/simplify.py", "code.onnxmake/model/simplify.py"),
        ("optimize", "onnxmake/model/lowering/cpu.py", "code.onnxmake/model/lowering/cpu.py"),
        ("optimize", "onnxmake/model/step.py", "code.onnxmake/model/step.py"),
        ("optimize", "onnxmake/model/boot.py", "code.onnxmake/model/boot.py"),
        ("optimize", "onnxmake/errors.py", "code.onnxmake/errors.py"),
        ("package_genai", "onnxmake/model/kernels.py", "code.onnxmake/model/kernels.py"),
        ("optimize", "containers/cpu/requirements.lock", "environment.lock"),
    ],
)
def test_a_file_that_the_step_runs_changes_the_key(checkout, name, file, leaf):
    old = explain(name)
    append(checkout / file)
    new = explain(name)
    assert key.digest(old) != key.digest(new)
    assert [line.split(": ")[0] for line in key.difference(old, new)] == [leaf]


@pytest.mark.parametrize(
    "name, changed, line",
    [
        ("quantize_rtn", {"options": {"block_size": 64}}, "options.block_size: 32 -> 64"),
        ("quantize_rtn", {"may_skip": True}, "may_skip: False -> True"),
        (
            "quantize_rtn",
            {"model.onnx": "other"},
            f"inputs.model.onnx: {sha('model.onnx')[:12]} -> {sha('other')[:12]}",
        ),
        (
            "export",
            {"tensors.json": "other"},
            f"inputs.checkpoint/tensors.json: {sha('tensors.json')[:12]} -> {sha('other')[:12]}",
        ),
        (
            "package_genai",
            {"model.safetensors": "other"},
            f"inputs.checkpoint/model.safetensors: {sha('model.safetensors')[:12]} -> {sha('other')[:12]}",
        ),
        ("package_genai", {"merges.txt": None}, f"inputs.checkpoint/merges.txt: {sha('merges.txt')[:12]} -> absent"),
    ],
)
def test_an_option_or_input_changes_the_key_and_is_named_with_old_and_new_value(checkout, name, changed, line):
    before = () if name == "export" else ("export",)
    old, new = explain(name, before), explain(name, before, **changed)
    assert key.digest(old) != key.digest(new)
    assert key.difference(old, new) == [line]


def test_the_python_version_and_the_schema_change_the_key(checkout, monkeypatch):
    old = explain("optimize")
    monkeypatch.setattr(key.runner, "python_of", lambda env: "3.99")
    monkeypatch.setattr(key, "SCHEMA", "next")
    new = explain("optimize")
    assert key.difference(old, new) == [f"python: {old['python']} -> 3.99", f"schema: {old['schema']} -> next"]
    assert key.digest(old) != key.digest(new)


def test_a_module_that_a_pass_newly_imports_joins_the_key(checkout):
    old = explain("quantize_rtn")
    append(checkout / "passes" / "quantize_rtn.py", "\nfrom onnxmake.model import genai\n")
    lines = key.difference(old, explain("quantize_rtn"))
    assert [line.split(": ")[0] for line in lines] == ["code.onnxmake/model/genai.py", "code.passes/quantize_rtn.py"]
    assert lines[0].split(": ")[1].startswith("absent -> ")


@pytest.mark.parametrize(
    "name, options, file",
    [
        ("optimize", {}, "passes/quantize_rtn.py"),
        ("optimize", {}, "onnxmake/model/kernels.py"),
        ("optimize", {}, "onnxmake/build/store.py"),
        ("optimize", {}, "containers/torch/requirements.lock"),
        ("optimize", {"device": "portable"}, "onnxmake/model/lowering/cpu.py"),
        ("export", {}, "onnxmake/model/lowering/portable.py"),
    ],
)
def test_a_file_that_the_step_does_not_run_leaves_the_key_alone(checkout, name, options, file):
    before = () if name == "export" else ("export",)
    old = explain(name, before, options)
    append(checkout / file)
    assert explain(name, before, options) == old


@pytest.mark.parametrize(
    "name, changed",
    [
        ("optimize", {"folder": "elsewhere"}),
        ("optimize", {"upstream": "another key"}),
        ("optimize", {"model.safetensors": "other"}),
        ("export", {"model.safetensors": "other"}),
        ("export", {"config.json": "other"}),
        ("package_genai", {"extra.json": "other"}),
    ],
)
def test_what_the_step_does_not_read_leaves_the_key_alone(checkout, name, changed):
    before = () if name == "export" else ("export",)
    assert explain(name, before, **changed) == explain(name, before)


def test_the_same_checkout_at_another_place_and_time_has_the_same_keys(checkout, tmp_path, monkeypatch):
    old = explain("package_genai")
    use_checkout(tmp_path / "copy", monkeypatch)
    for file in (tmp_path / "copy").rglob("*.py"):
        file.touch()
    assert explain("package_genai") == old


def test_a_key_says_everything_in_json(checkout):
    explained = explain("quantize_rtn")
    assert json.loads(canonical_json(explained)) == explained
    assert explained["options"] == json.loads(json.dumps(dataclasses.asdict(make("quantize_rtn").use.options)))
    assert explained["inputs"] == {name: sha(name) for name in ("model.onnx", "extra.json")}
    assert set(explained["code"]) > {"passes/quantize_rtn.py", "onnxmake/model/blocks.py", "onnxmake/model/step.py"}


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_missing_file_of_the_checkpoint_is_told_before_the_first_step_runs(checkout, name):
    step = make("package_genai", **{name: None})
    step.before.manifest.unlink()
    with pytest.raises(CheckpointError) as caught:
        key.check_inputs(step)
    assert caught.value.fact == f"{name} is missing; package_genai needs it."
    assert str(paths.OUTPUT / "weights") in caught.value.cause
    assert caught.value.action


def test_a_missing_input_is_told_when_the_step_is_explained_too(checkout):
    with pytest.raises(CheckpointError, match="tokenizer.json is missing"):
        key.explain(make("package_genai", **{"tokenizer.json": None}))


def test_a_file_of_the_checkpoint_is_not_taken_for_one_that_the_step_before_made(checkout):
    step = make("optimize")
    made = {"extra.json": ["b", 1], "model.onnx": ["c", 1]}
    assert key.inputs_of(step, {"extra.json": "a", "more.json": "d"}, made) == {"extra.json": "b", "model.onnx": "c"}


def test_a_key_can_be_told_before_the_step_before_has_run(checkout):
    step = make("quantize_rtn")
    wanted = key.explain(step)
    made = step.before.record["files"]
    step.before.manifest.unlink()
    assert key.explain(step, None, made) == wanted
    other = made | {"model.onnx": [sha("other"), 9]}
    assert key.explain(step, None, other)["inputs"]["model.onnx"] == sha("other")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
@pytest.mark.parametrize("whose", ["before", "checkpoint"])
def test_without_a_whole_manifest_behind_it_a_step_has_no_key(checkout, whose, damage):
    step = make("optimize")
    manifest = getattr(step, whose).manifest
    if damage == "missing":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace("files", "fires"))
    with pytest.raises(StoreError, match=rf"{manifest.name} is missing or damaged"):
        key.explain(step)


@pytest.mark.parametrize(
    "file, leaf",
    [
        ("passes/optimize.py", "code.passes/optimize.py"),
        ("onnxmake/model/simplify.py", "code.onnxmake/model/simplify.py"),
        ("containers/cpu/requirements.lock", "environment.lock"),
    ],
)
def test_an_edit_while_this_process_runs_is_seen_when_it_looks_again(checkout, file, leaf):
    step = make("optimize")
    old = key.explain(step)
    append(checkout / file)
    assert key.explain(step) == old
    key.look_again()
    assert [line.split(": ")[0] for line in key.difference(old, key.explain(step))] == [leaf]


def test_an_import_added_while_this_process_runs_is_followed_when_it_looks_again(checkout):
    step = make("quantize_rtn")
    old = key.explain(step)
    append(checkout / "onnxmake" / "model" / "blocks.py", "\nfrom onnxmake.model import genai\n")
    key.look_again()
    leaves = [line.split(": ")[0] for line in key.difference(old, key.explain(step))]
    assert leaves == ["code.onnxmake/model/blocks.py", "code.onnxmake/model/genai.py"]


@pytest.mark.parametrize("missing", [{}, {"vocab.json": None, "merges.txt": None, "generation_config.json": None}])
def test_a_checkpoint_may_lack_what_is_optional(checkout, missing):
    step = make("package_genai", **missing)
    key.check_inputs(step)
    inputs = key.explain(step)["inputs"]
    assert f"{key.PREFIX}tokenizer.json" in inputs
    assert not {key.PREFIX + name for name in missing} & set(inputs)


@pytest.mark.parametrize(
    "old, new, lines",
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c: 2 -> 3"]),
        ({"a": "0" * 64}, {"a": "1" * 64}, ["a: 000000000000 -> 111111111111"]),
        ({}, {"a": "x"}, ["a: absent -> x"]),
        ({"a": [1, 2], "b": 0}, {"a": [1], "c": 0}, ["a: [1, 2] -> [1]", "b: 0 -> absent", "c: absent -> 0"]),
    ],
)
def test_difference_names_each_leaf_with_old_and_new_value(old, new, lines):
    assert key.difference(old, new) == lines


def test_a_table_of_options_changes_the_key_and_is_json(checkout):
    before = ("export", "package_onnx")
    one, other = (explain("fix_shapes", before, {"dims": {"batch": n}, "inputs": {"x": (1, n)}}) for n in (1, 2))
    assert json.loads(json.dumps(one)) == one
    assert key.difference(one, other) == ["options.dims.batch: 1 -> 2", "options.inputs.x: [1, 1] -> [1, 2]"]


def test_the_machine_is_in_the_key_of_a_pass_that_measures_and_of_no_other(checkout, monkeypatch):
    before = ("export", "package_onnx")
    assert "machine" not in explain("fix_shapes", before, {"dims": {"batch": 1}})
    found = explain("tune_session", before)
    assert found["machine"].keys() == {"cpu", "cores"}
    key._machine.cache_clear()
    monkeypatch.setattr(
        "onnxmake.model.machine.describe", lambda device: {"cpu": "another", "cores": 3, "system": "any"}
    )
    old = found["machine"]
    try:
        lines = key.difference(found, explain("tune_session", before))
        assert lines == [f"machine.cores: {old['cores']} -> 3", f"machine.cpu: {old['cpu']} -> another"]
    finally:
        key._machine.cache_clear()
