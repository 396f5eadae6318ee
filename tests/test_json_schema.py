"""The JSON Schema of target files beside the reader that it describes, and completion in a shell."""

import copy
import json
import subprocess
import sys
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from onnxmake.build import comments, json_schema, like, paths, show
from onnxmake.build.declaration import declaration, pass_names
from onnxmake.build.gates import Check
from onnxmake.build.target import METRIC, read_target
from onnxmake.errors import TargetError

TARGET = Draft202012Validator(json_schema.target_schema())
RELEASE = Draft202012Validator(json_schema.release_schema())
FILES = like.inside(paths.TARGETS)
EVERYTHING = {  # a table that has every key that there is
    "device": "cpu",
    "unproven": True,
    "source": {"repo": "owner/model", "revision": "7ae557604adf67be50417f59c2c2f167def9a775"},
    "pass": [
        {"use": "export", "part": "model"},
        {"use": "optimize", "device": "portable", "may_skip": True},
        {"use": "quantize_rtn", "bits": 4, "block_size": 32, "keep": ["lm_head"], "accuracy_level": 1, "memory_mb": 900},
        {"use": "surgery", "name": "soften_mask", "value": -5.5},
        {"use": "package_onnx"},
        {"use": "fix_shapes", "dims": {"batch": 1}, "inputs": {"ids": [1, 2]}},
    ],
    "check": {"text": "a.jsonl", "text_template": "{a}", "window": 64, "stride": 32, "max_kl": 0.5, "min_top1": 1, "min_decode": 2, "than": "tiny-int8-cpu"},
    "bench": {"prompt_tokens": [8], "new_tokens": 2, "repeats": 3},
    "search": {"trials": 3, "objectives": ["kl"], "seed": 1, "quantize_rtn": {"bits": [4, 8], "block_size": {"low": 16, "high": 64}}},
    "release": {"license": "mit", "version": "1"},
}  # fmt: skip
BASES = [
    EVERYTHING,
    *(tomllib.loads(FILES[n].read_text("utf-8")) for n in ("tiny-gptq-cpu", "qwen-int4-cuda", "minilm-int8-cpu")),
]
BEYOND = (  # what the schema cannot know: files, other targets, other keys
    "is no file",
    "there is nothing to vary",  # in any of its tables
    "is not the name of another target",
    "the target has no pass",
    "is no range of numbers",
    "window must be at least 2, and stride from 1 to window",
    "is less than one window",
    "neither dims nor inputs are named",
    "a size is less than 1",
    "comes before it",
)


def test_the_schemas_are_schemas_of_the_draft_that_they_name():
    for validator in (TARGET, RELEASE):
        Draft202012Validator.check_schema(validator.schema)
        assert validator.schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("file", sorted(paths.TARGETS.glob("*.toml")), ids=lambda file: file.name)
def test_every_shipped_file_validates(file):
    validator = RELEASE if file.name.endswith(like.RELEASE) else TARGET
    assert [error.message for error in validator.iter_errors(tomllib.loads(file.read_text("utf-8")))] == []


def changed(path: tuple, value) -> dict:
    table = copy.deepcopy(EVERYTHING)
    inner = table
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return table


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("devise",), "cpu"),
        (("device",), "gpu"),
        (("unproven",), 1),
        (("source",), {"path": "x", "repo": "y"}),
        (("source", "revision"), "main"),
        (("pass",), []),
        (("pass", 0, "use"), "optimize"),
        (("pass", 2, "use"), "quantize_rtm"),
        (("pass", 2, "bit"), 4),
        (("pass", 2, "bits"), 5),
        (("pass", 2, "symmetric"), "false"),
        (("pass", 2, "keep"), "lm_head"),
        (("pass", 2, "memory_mb"), True),
        (("pass", 3, "name"), "soften"),
        (("check", "window"), 1),
        (("check", "min_top1"), 1.5),
        (("check", "max_kl"), -0.1),
        (("check", "text"), "hf://datasets/owner/name/file.txt"),
        (("check",), {"text_template": "{text}"}),
        (("check",), {"than": "tiny-int8-cpu"}),
        (("bench", "prompt_tokens"), [0]),
        (("bench", "repeats"), 0),
        (("search", "trials"), 0),
        (("search", "objectives"), ["decode"]),
        (("search", "quantize_rtn"), {"bits": [5]}),
        (("search", "quantize_rtn"), {}),
        (("search", "quantize_rtn"), {"symmetric": {"low": 0, "high": 1}}),
        (("release", "licence"), "mit"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_by_schema_and_reader(path, value, tmp_path):
    assert TARGET.is_valid(EVERYTHING) and read(EVERYTHING, tmp_path) == ""
    assert not TARGET.is_valid(changed(path, value))
    assert read(changed(path, value), tmp_path)


def read(table: dict, folder) -> str:
    """What the reader refuses of a target file with these keys."""

    def toml(value):
        if isinstance(value, dict):
            return {key: toml(inner) for key, inner in value.items()}
        return tuple(map(toml, value)) if isinstance(value, list) else value

    file = folder / "mine.toml"
    file.write_text(
        "".join(f"{json.dumps(key)} = {show.value(toml(value))}\n" for key, value in table.items()), "utf-8"
    )
    try:
        read_target(file, FILES | {"mine": file})
    except TargetError as error:
        return error.fact
    return ""


def places(value, at=()):
    """Every key in it, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


VALUES = st.recursive(  # whole numbers written as 1.0 are integers to JSON Schema, and none to the reader
    st.booleans() | st.integers(-3, 300) | st.sampled_from([0.5, -0.5, 1.5, "", "cpu", "portable", "int4", "kl", "a/b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["low", "high", "path", "x"]), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_schema_and_reader_agree_on_every_change_of_one_key(tmp_path, data):
    table = copy.deepcopy(data.draw(st.sampled_from(BASES)))
    path = data.draw(st.sampled_from([*places(table)]))
    inner = table
    for key in path[:-1]:
        inner = inner[key]
    how = data.draw(st.sampled_from(["replace", "remove", "rename"]))
    value = inner.pop(path[-1]) if how != "replace" else data.draw(VALUES)
    if how == "replace":
        inner[path[-1]] = value
    elif how == "rename" and isinstance(inner, dict):
        inner[f"{path[-1]}s"] = value
    refused = read(table, tmp_path)
    if not any(beyond in refused for beyond in BEYOND):
        assert TARGET.is_valid(table) == (not refused), refused


def test_comments_are_the_descriptions_of_fields_also_of_those_that_are_inherited():
    options = comments.comments(declaration("quantize_gptq").options)
    assert options["damping"].startswith("added to the diagonal of the Hessian")
    assert options["tokens"] == "of each sample" and "samples" not in options
    assert options["block_size"] == "values that share a scale"
    checks = comments.comments(Check)
    assert checks["text"].startswith("a file, relative to the target's, hf://datasets/")
    assert checks["stride"].startswith("tokens from one window to the next")
    assert "max_kl" not in checks


def test_every_pass_is_there_with_the_defaults_that_its_options_have():
    found = {one["title"]: one["properties"] for one in TARGET.schema["$defs"]["pass"]["oneOf"]}
    assert [*found] == [name for name in pass_names() if name != METRIC]
    assert found["quantize_hqq"]["symmetric"]["default"] is False
    assert found["tune_session"]["spinning"]["default"] == [True, False]
    assert "default" not in found["cast"]["dtype"] and found["cast"]["use"]["const"] == "cast"


def doit(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "doit", *arguments], cwd=paths.ROOT, capture_output=True, text=True)


def test_doit_schema_prints_them_and_names_the_nearest_of_another_name():
    assert json.loads(doit("schema").stdout) == TARGET.schema
    assert json.loads(doit("schema", "release").stdout) == RELEASE.schema
    wrong = doit("schema", "relese")
    assert wrong.returncode == 1 and "no schema of 'relese'" in wrong.stderr and "'release'" in wrong.stderr


COMPLETE = r"""
_get_comp_words_by_ref() { cur=${line##* }; words=($line); cword=$(( ${#words[@]} - 1 )); prev=${words[cword-1]}; }
__ltrim_colon_completions() { local i; for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"${1%:*}:"}; done; }
doit() { "$PYTHON" -m doit "$@"; }
. "$SCRIPT"
for line in "$@"; do COMPREPLY=(); _doit; echo "${COMPREPLY[*]}"; done
"""  # the first two are bash-completion's, which is a package of its own


def test_a_shell_completes_commands_groups_and_names(tmp_path):
    script = doit("tabcompletion").stdout.replace("__main__.py", "doit")  # as the program `doit` writes it
    (tmp_path / "doit.bash").write_text(script)
    lines = {
        "doit bui": "build",
        "doit sche": "schema",
        "doit why bui": "build",
        "doit build:tiny-int": "tiny-int4-cpu tiny-int4-cuda tiny-int4-directml tiny-int4-webgpu tiny-int8-cpu",
        "doit plan build:tiny-g": "tiny-gptq-cpu",
        "doit check:minilm": "minilm-fp32-cpu minilm-int8-cpu",
        "doit release:tiny-int4": "tiny-int4 tiny-int4-cpu tiny-int4-cuda tiny-int4-directml tiny-int4-webgpu",
        "doit search:": "tiny-gptq-cpu",
    }
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", *lines],
        cwd=paths.ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "SCRIPT": str(tmp_path / "doit.bash"),
             "ONNXMAKE_OUTPUT": str(tmp_path), "ONNXMAKE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert dict(zip(lines, done.stdout.splitlines())) == lines, done.stderr
