"""A checkpoint that the project does not ship, in shards, from a folder and from a hub, built by doit and compared
with Transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from builder import Builder, passes, verbs
from hub_server import COMMIT, REPO, serve
from transformers import AutoModelForCausalLM
from twins import make_twin

from onnxmake.build import paths
from onnxmake.model.session import open_scoring

PASSES = passes("export", "optimize", "package_genai")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Qwen3 in bfloat16, in three shards, with the embedded model's tokenizer."""
    folder = make_twin(
        "qwen3", tmp_path_factory.mktemp("outside") / "checkpoint", torch.bfloat16, max_shard_size="100KB"
    )
    assert len(list(folder.glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(paths.TARGETS / "tiny" / name, folder / name)
    return folder


def check(model, checkpoint) -> None:
    ids = torch.randint(3, 160, (1, 24), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)(ids).logits.numpy()
    session = open_scoring(model)
    shapes = {i.name: i.shape for i in session.get_inputs()}
    empty = {n: np.zeros((1, s[1], 0, s[3]), np.float32) for n, s in shapes.items() if n.startswith("past")}
    feed = {"input_ids": ids.numpy(), "attention_mask": np.ones((1, 24), np.int64)} | empty
    assert np.abs(session.run(["logits"], feed)[0] - expected).max() / np.abs(expected).max() < 1e-5


def test_a_sharded_checkpoint_in_a_folder(checkpoint, tmp_path):
    builder = Builder(tmp_path)
    builder.run(builder.target("outside", checkpoint, PASSES))
    check(builder.dist("outside") / "model.onnx", checkpoint)


def test_a_fine_tune_of_a_known_architecture_needs_no_export(checkpoint, tmp_path):
    builder = Builder(tmp_path / "out", tmp_path / "cache")
    builder.run(builder.target("outside", checkpoint, PASSES))
    tuned = make_twin("qwen3", tmp_path / "tuned", torch.float32)  # other type, one file, other names in config.json
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(tuned)
        model.lm_head.weight.mul_(2)
        model.save_pretrained(tuned)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(paths.TARGETS / "tiny" / name, tuned / name)
    printed = builder.run(builder.target("tuned", tuned, PASSES))
    assert verbs(printed) == {"export": "restored", "optimize": "restored", "package_genai": "ran"}
    check(builder.dist("tuned") / "model.onnx", tuned)


def test_a_checkpoint_on_the_hub_and_again_without_network(checkpoint, tmp_path):
    builder = Builder(tmp_path / "out")
    name = builder.target("hubbed", checkpoint, PASSES)
    file = builder.output / "targets" / "hubbed.toml"
    file.write_text(file.read_text().replace(f'path = "{checkpoint}"', f'repo = "{REPO}"\nrevision = "{COMMIT}"'))
    builder.settings |= {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    with serve(checkpoint) as hub:
        builder.settings["HF_ENDPOINT"] = hub.url
        builder.run(name)
        before = sum(hub.requests.values())
        assert builder.run(name) == f"{name}: up to date\n" and sum(hub.requests.values()) == before
    check(builder.dist("hubbed") / "model.onnx", checkpoint)
    shutil.rmtree(builder.output / "build")
    assert set(verbs(builder.run(name)).values()) == {"restored"}
    assert json.loads((builder.dist("hubbed") / "manifest.json").read_text())["source"]["revision"] == COMMIT
