"""What people get wrong, and what breaks under them.

A message of fact, cause and next action, no trace, and no partial dist.
"""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from builder import STEPS, Builder, passes

from onnxmake.build import paths
from onnxmake.model.safetensors import read_header

TINY = paths.TARGETS / "tiny"
WEIGHTS = "model.safetensors"

pytestmark = pytest.mark.slow


def truncate(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 2000)


def lie(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 10**12) + data[8:])


def lose_a_shard(folder: Path) -> None:
    names = list(read_header(folder / WEIGHTS))
    os.rename(folder / WEIGHTS, folder / "model-00001-of-00002.safetensors")
    shards = dict.fromkeys(names, "model-00001-of-00002.safetensors") | {names[0]: "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def edit_config(**settings):
    def edit(folder: Path) -> None:
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | settings))

    return edit


def poison(folder: Path) -> None:
    tensor = read_header(folder / WEIGHTS)["model.layers.3.mlp.up_proj.weight"]
    with open(folder / WEIGHTS, "r+b") as file:
        file.seek(tensor.offset + 1000)
        file.write(np.array([0x7FC0], np.uint16).tobytes())


def pickle(folder: Path) -> None:
    os.rename(folder / WEIGHTS, folder / "pytorch_model.bin")


CASES = {
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing; package_genai needs it"),
    "truncated header": (truncate, "model.safetensors has 2,000 bytes and says that its header takes"),
    "lying header": (lie, "says that its header takes 1,000,000,000,000"),
    "missing shard": (lose_a_shard, "Shard model-00002-of-00002.safetensors is missing"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("<html>"), "config.json is not a JSON object"),
    "unknown model type": (
        edit_config(model_type="qwen9", transformers_version="9.1.0"),
        "qwen9 is not proven right on cpu",
    ),
    "wrong shape": (edit_config(intermediate_size=512), "config.json asks for [512, 256]"),
    "weights with NaN": (poison, "Tensor model.layers.3.mlp.up_proj.weight holds NaN"),
    "a pickle": (pickle, "holds pytorch_model.bin and no safetensors file"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "no folder": (shutil.rmtree, "does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_checkpoint_is_refused(tmp_path, case):
    damage, message = CASES[case]
    folder = shutil.copytree(TINY, tmp_path / "checkpoint")
    damage(folder)
    builder = Builder(tmp_path / "out")
    printed = builder.fail(builder.target("bad", folder, passes(*STEPS)))
    assert message in printed
    assert not builder.dist("bad").exists()
    if case == "unknown model type":
        assert "saved by Transformers 9.1.0" in printed


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            passes("export", "optimise"),
            ("bad.toml: [[pass]] 2: no pass is named 'optimise'", "Did you mean 'optimize'?"),
        ),
        (
            passes(*STEPS, blocksize=32),
            ("[[pass]] 3 (quantize_rtn): unknown key 'blocksize'", "Did you mean 'block_size'?"),
        ),
        (passes("optimize", "package_genai"), ("[[pass]] 1 (optimize) works on a graph", 'use = "export"')),
        (passes(*STEPS, block_size="32"), ("block_size = '32' is not one of 16, 32, 64, 128, 256",)),
    ],
)
def test_a_bad_target_is_refused_before_anything_is_written(tmp_path, text, messages):
    builder = Builder(tmp_path)
    printed = builder.fail(builder.target("bad", TINY, text))
    assert all(m in printed for m in messages)
    assert os.listdir(tmp_path) == ["targets"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("build:tiny-int44-cpu", "Did you mean 'tiny-int4-cpu'?"),
        ("check:none", "No target is named 'none'"),
        ("search:tiny-int4-cpu", "tiny-int4-cpu has no [search]"),
        ("search", "doit search:NAME"),
        ("release", "doit release:NAME"),
        ("try", "doit try:NAME"),
        ("runner=foo", "runner=foo is none that there is"),
    ],
)
def test_an_unknown_target_names_what_there_is(tmp_path, asked, said):
    assert said in Builder(tmp_path).fail(asked)
    assert "dist" not in os.listdir(tmp_path)


@pytest.mark.parametrize("group", ["build", "check", "try", "bench", "verify", "bundle", "publish", "search"])
def test_whatever_is_asked_of_a_broken_target_the_error_is_its_own(tmp_path, group):
    builder = Builder(tmp_path)
    builder.target("broken", TINY, passes("exprot"))
    assert "no pass is named 'exprot'" in builder.fail(f"{group}:broken")


def test_a_name_with_an_equals_sign_breaks_that_target_alone(tmp_path):
    builder = Builder(tmp_path)
    builder.target("a=b", TINY, passes(*STEPS))
    (line,) = (line for line in builder.run("list").splitlines() if line.startswith("a_b"))
    assert "BROKEN" in line and "'a=b' cannot be the name of a target" in line


@pytest.mark.parametrize(
    ("options", "cause"), [("ro", "The file system is read-only"), ("size=1m", "The disk is full")]
)
def test_an_output_disk_that_cannot_be_written_is_said(built, tmp_path, options, cause):
    printed = Builder(tmp_path).fail_on_disk(tmp_path, options, "build:tiny-fp32-cpu")
    assert "Could not" in printed and cause in printed and "ONNXMAKE_OUTPUT" in printed


@pytest.mark.parametrize("options", ["size=100k", "size=3m"])
def test_a_full_store_disk_is_said_and_the_next_build_is_whole(built, tmp_path, options):
    builder = Builder(tmp_path / "out", tmp_path / "cache")
    assert "No space left on device" in builder.fail_on_disk(builder.cache, options, "build:tiny-int4-cpu")
    assert not builder.dist("tiny-int4-cpu").exists()
    builder.run("build:tiny-int4-cpu")
    assert (builder.dist("tiny-int4-cpu") / "model.onnx.data").read_bytes() == (
        built.dist("tiny-int4-cpu") / "model.onnx.data"
    ).read_bytes()


def test_a_prompt_that_doit_takes_for_a_variable_is_explained(built):
    assert "--prompt='x = 1'" in built.run("try:tiny-int4-cpu", "-p", "x = 1", code=1)
    assert "x = 1" in built.run("try:tiny-int4-cpu", "--prompt=x = 1", "-n", "4")
