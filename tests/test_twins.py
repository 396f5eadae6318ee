"""Small models of real architectures, captured, lowered and run, against Transformers.

Prefill, cached decode, padded batch.
"""

import functools
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from graphs import bind, load_pass, operations
from onnxruntime import InferenceSession
from twins import TWINS, make_twin

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model import canonical
from onnxmake.model.capture import capture, layers
from onnxmake.model.safetensors import read_checkpoint

TOKENS, PREFILL, TOLERANCE = 40, 30, 1e-5
FUSED = {
    "mistral-head-dim": 0,
    "phi3-longrope": 0,
    "phi4-mini": 0,
}  # widths or frequencies that the op's own rotation does not take


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """name -> (checkpoint folder, captured graph file), each made once."""

    @functools.cache
    def make(name: str) -> tuple[Path, Path]:
        folder = make_twin(name, tmp_path_factory.mktemp("twins") / name)
        file = folder.parent / f"{name}.onnx"
        canonical.save(
            capture(
                json.loads((folder / "config.json").read_text()),
                {n: list(t.shape) for n, t in read_checkpoint(folder).items()},
            ),
            file,
        )
        return folder, file

    return make


class Runner:
    """A bound decoder as a function of tokens, with its cache."""

    def __init__(self, file: Path):
        self.session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.past = [n for n in self.inputs if n.startswith("past_key_values.")]

    def empty(self, batch: int) -> list[np.ndarray]:
        return [np.zeros((batch, self.inputs[n].shape[1], 0, self.inputs[n].shape[3]), np.float32) for n in self.past]

    def __call__(
        self, ids: np.ndarray, mask: np.ndarray, past: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **dict(zip(self.past, past))}
        logits, *present = self.session.run(None, {k: v for k, v in feed.items() if k in self.inputs})
        return logits, present


def lowered(graph: Path, folder: Path, out: Path, device: str) -> Path:
    built, optimize = ir.load(graph), load_pass("optimize")
    assert optimize.rewrite(built, optimize.Options(device)) > 0
    return bind(built, folder, out, device)


def reference(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("device", ["portable", "cpu"])
@pytest.mark.parametrize("name", TWINS)
def test_logits_equal_transformers_in_prefill_and_cached_decode(twin, tmp_path, name, device):
    folder, graph = twin(name)
    ids = torch.randint(3, 160, (1, TOKENS), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = reference(folder)(ids).logits.numpy()
    scale, ids, mask = np.abs(expected).max(), ids.numpy(), np.ones((1, TOKENS), np.int64)
    decoder = Runner(lowered(graph, folder, tmp_path, device))
    logits, _ = decoder(ids, mask, decoder.empty(1))
    assert np.abs(logits - expected).max() / scale < TOLERANCE
    logits, past = decoder(ids[:, :PREFILL], mask[:, :PREFILL], decoder.empty(1))
    for t in range(PREFILL, TOKENS):
        logits, past = decoder(ids[:, t : t + 1], mask[:, : t + 1], past)
        assert np.abs(logits[0, -1] - expected[0, t]).max() / scale < TOLERANCE
    assert past[0].shape[2] == TOKENS


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3"])
def test_a_left_padded_batch_equals_transformers(twin, tmp_path, name):
    folder, graph = twin(name)
    ids = torch.randint(3, 160, (2, 20), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = reference(folder)(ids, attention_mask=mask, position_ids=positions).logits.numpy()
    decoder = Runner(lowered(graph, folder, tmp_path, "portable"))
    logits, past = decoder(ids.numpy()[:, :15], mask.numpy()[:, :15], decoder.empty(2))
    seen = mask.numpy().astype(bool)
    assert np.abs(logits - expected[:, :15])[seen[:, :15]].max() / np.abs(expected).max() < TOLERANCE
    for t in range(15, 20):
        logits, past = decoder(ids.numpy()[:, t : t + 1], mask.numpy()[:, : t + 1], past)
        assert np.abs(logits[:, 0] - expected[:, t]).max() / np.abs(expected).max() < TOLERANCE


@pytest.mark.parametrize("name", TWINS)
def test_attention_norms_and_rotation_are_fused_for_cpu(twin, tmp_path, name):
    folder, graph = twin(name)
    built = ir.load(lowered(graph, folder, tmp_path, "cpu"))
    config = json.loads((folder / "config.json").read_text())
    attentions = [n for n in built.graph if n.op_type == "GroupQueryAttention"]
    assert len(attentions) == config["num_hidden_layers"]
    assert {n.attributes["do_rotary"].value for n in attentions} == {FUSED.get(name, 1)}
    assert not {"ReduceMean", "Sqrt", "Pow"} & set(operations(built))
    if name == "qwen2-tied":
        assert all(n.inputs[1] is None and n.inputs[2] is None for n in attentions)  # packed query, key and value
        assert operations(built).count("SkipSimplifiedLayerNormalization") == 2 * config["num_hidden_layers"]


def test_portable_graphs_hold_standard_operators_only(twin, tmp_path):
    folder, graph = twin("gemma3")
    built = ir.load(graph)
    optimize = load_pass("optimize")
    optimize.rewrite(built, optimize.Options("portable"))
    assert {n.domain for n in built.graph} == {"", "onnxmake"}
    assert {n.op_type for n in built.graph if n.domain} <= {"Weight", "Linear"}


@pytest.mark.parametrize("name", ["llama-deep", "gemma3", "qwen2-yarn-windows"])
def test_stamped_layers_equal_layers_traced_one_by_one(twin, tmp_path, monkeypatch, name):
    folder, graph = twin(name)
    monkeypatch.setattr(layers, "representatives", lambda kind: list(range(len(kind))))
    whole = capture(
        json.loads((folder / "config.json").read_text()), {n: list(t.shape) for n, t in read_checkpoint(folder).items()}
    )
    canonical.save(whole, tmp_path / "whole.onnx")
    assert (tmp_path / "whole.onnx").read_bytes() == graph.read_bytes()


def test_captured_graphs_hold_no_weights_and_no_paths(twin):
    _, graph = twin("llama-deep")
    data = graph.read_bytes()
    assert len(data) < 100_000
    assert not any(trace in data for trace in (b"site-packages", b".py", b"torch", b"metadata"))


def capture_twin(folder: Path, change=lambda tensors: None, **config):
    settings = json.loads((folder / "config.json").read_text()) | config
    tensors = {n: list(t.shape) for n, t in read_checkpoint(folder).items()}
    change(tensors)
    return capture(settings, tensors)


def test_an_untied_head_is_not_tied_though_the_config_says_so(twin):
    graph = capture_twin(twin("llama")[0], tie_word_embeddings=True).graph
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= {
        n.attributes["parts"].value[0] for n in graph if n.op_type == "Weight"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            "lacks 1 tensors, the first is model.layers.1.mlp.up_proj.weight",
        ),
        (lambda t: t.pop("lm_head.weight"), "lacks 1 tensors, the first is lm_head.weight"),
        (
            lambda t: t.update({"model.norm.weight": [65]}),
            "model.norm.weight has shape \\[65\\]; config.json asks for \\[64\\]",
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": [16]}),
            "does not use 1 tensors of the checkpoint, the first is model.layers.0.self_attn.q_norm.weight",
        ),
    ],
)
def test_missing_misshapen_and_unused_tensors_are_named(twin, change, message):
    with pytest.raises(CheckpointError, match=message):
        capture_twin(twin("llama")[0], change)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("llama9", "model_type 'llama9'; Transformers 5"),
        ("bert_generation_x", "knows no such model"),
        ("vit", "no causal language model"),
    ],
)
def test_architectures_that_are_no_known_causal_model_are_refused(kind, message):
    with pytest.raises(UnsupportedError, match=message):
        capture({"model_type": kind}, {})
