"""Small models of real architectures, captured, lowered and run, against Transformers."""

import functools
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import bind, load_pass, operations
from twins import NAMED, TWINS, make_twin

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model import canonical, parity, reference
from onnxmake.model.capture import capture, layers
from onnxmake.model.graph import emit, nodes, replace
from onnxmake.model.safetensors import read_checkpoint

TOLERANCE = 1e-4
PLAIN = {"bloom", "falcon", "gptj", "mpt", "mamba"}  # attention of their own, traced as it is written; or none
LATENT = {"deepseek_v3", "deepseek_v3-dense"}  # keys and values of other widths than the op takes
UNROTATED = {"mistral-head-dim", "phi3-longrope", "phi4-mini", "gpt2", "opt", "hunyuan_v1_dense", "bamba"}


@functools.cache
def expected(folder: Path) -> dict[str, np.ndarray]:
    return reference.expected(folder)


def lowered(graph: Path, folder: Path, out: Path, device: str) -> Path:
    built, optimize = ir.load(graph), load_pass("optimize")
    assert optimize.rewrite(built, optimize.Options(device)) > 0
    return bind(built, folder, out, device)


def tensors_of(folder: Path) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in read_checkpoint(folder).items()}


def capture_twin(folder: Path, change=lambda tensors: None, **config) -> ir.Model:
    tensors = tensors_of(folder)
    change(tensors)
    return capture(json.loads((folder / "config.json").read_text()) | config, tensors)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_computes_what_transformers_computes(twin, tmp_path, name):
    """A prompt past every window and rope boundary, 16 cached steps, in standard ops a left-padded batch; greedy tokens."""
    folder, graph = twin(name)
    for device in ("portable", "cpu"):
        file = lowered(graph, folder, tmp_path / device, device)
        errors = parity.compare(file, expected(folder), padded=device == "portable")
        assert max(errors.values()) < TOLERANCE, f"{device}: {errors}"
    assert parity.generates(graph, folder, tmp_path / "genai", expected(folder)) == {"greedy": 0.0}
    built = ir.load(file)
    config = json.loads((folder / "config.json").read_text())
    attentions = [n for n in built.graph if n.op_type == "GroupQueryAttention"]
    assert bool(attentions) == (name not in PLAIN | LATENT)
    if attentions and name in NAMED and "layer_types" not in config:
        assert len(attentions) == config.get("num_hidden_layers", config.get("n_layer"))
    if name not in UNROTATED | {"smollm3", "cohere2", "exaone4"}:  # those have layers without rotation
        assert {n.attributes["do_rotary"].value for n in attentions} <= {1}
    assert not {"RotaryEmbedding", "Cos"} & set(operations(built)) or name in PLAIN | LATENT or len(built.graph)


@pytest.mark.parametrize("name", ["qwen2-tied", "gemma3_text", "cohere", "phi"])
def test_norms_and_projections_are_fused_for_cpu(twin, tmp_path, name):
    folder, graph = twin(name)
    built = ir.load(lowered(graph, folder, tmp_path, "cpu"))
    assert not {"ReduceMean", "Sqrt", "Pow", "Tanh"} & set(operations(built))
    attentions = nodes(built.graph, "GroupQueryAttention")
    if name == "gemma3_text":  # normed before they meet: parts of one product, too
        assert operations(built).count("Split") == len(attentions) == operations(built).count("FusedMatMul") // 5
    if name == "qwen2-tied":
        assert all(n.inputs[1] is None and n.inputs[2] is None for n in attentions)  # packed query, key and value
        assert operations(built).count("SkipSimplifiedLayerNormalization") == 2 * len(attentions)


def test_experts_and_states_take_no_more_nodes_than_they_need(twin, tmp_path):
    built = ir.load(lowered(twin("gpt_oss")[1], twin("gpt_oss")[0], tmp_path, "cpu"))
    mixtures = nodes(built.graph, "MoE")
    assert mixtures and all(n.inputs[0].shape.rank() == 3 for n in mixtures)  # in their batch
    assert operations(built).count("Reshape") == len(mixtures) and "Concat" not in operations(built)
    for name, count in (("lfm2", 2), ("bamba", 1), ("qwen3_next", 2)):
        found = operations(ir.load(lowered(twin(name)[1], twin(name)[0], tmp_path / name, "cpu")))
        assert found.count("CausalConvWithState") == count and not {"Conv", "Scan"} & {*found}
        assert found.count("LinearAttention") == count * (name != "lfm2")


@pytest.mark.parametrize("name", ["gemma3_text", "qwen3_next", "gpt_oss"])
def test_portable_graphs_hold_standard_operators_only(twin, name):
    _, graph = twin(name)
    built = ir.load(graph)
    optimize = load_pass("optimize")
    optimize.rewrite(built, optimize.Options("portable"))
    assert {n.domain for n in built.graph} == {"", "onnxmake"}
    assert {n.op_type for n in built.graph if n.domain} <= {
        "Weight",
        "Linear",
        "Experts",
    }  # those that quantisers read stay until the model is bound


@pytest.mark.parametrize("name", ["llama-deep", "gemma3_text", "qwen2-yarn-windows", "lfm2"])
def test_stamped_layers_equal_layers_traced_one_by_one(twin, tmp_path, monkeypatch, name):
    folder, graph = twin(name)
    monkeypatch.setattr(layers, "representatives", lambda kind: list(range(len(kind))))
    canonical.save(capture_twin(folder), tmp_path / "whole.onnx")
    assert (tmp_path / "whole.onnx").read_bytes() == graph.read_bytes()


def test_captured_graphs_hold_no_weights_and_no_paths(twin):
    _, graph = twin("llama-deep")
    data = graph.read_bytes()
    assert len(data) < 100_000
    assert not any(trace in data for trace in (b"site-packages", b".py", b"torch", b"metadata"))


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
            "model.norm.weight is of shape \\[65\\]; config.json asks for \\[64\\]",
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


def test_a_missing_expert_is_named(twin):
    lost = "model.layers.1.mlp.experts.3.down_proj.weight"
    with pytest.raises(
        CheckpointError,
        match="The 7 tensors from .*experts.0.down_proj.weight to .*experts.7.down_proj.weight make one of shape",
    ):
        capture_twin(twin("qwen3_moe")[0], lambda tensors: tensors.pop(lost))


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


def test_an_encoder_with_a_language_head_is_refused(tmp_path):
    folder = make_twin("camembert-encoder", tmp_path)
    with pytest.raises(UnsupportedError, match="looks at tokens that come later"):
        capture_twin(folder)


def drop(op: str, *attributes: str):
    def mistake(model: ir.Model) -> None:
        for node in nodes(model.graph, op):
            for name in attributes:
                node.attributes.pop(name, None)

    return mistake


def change(op: str, name: str, edit):
    def mistake(model: ir.Model) -> None:
        for node in nodes(model.graph, op):
            if name in node.attributes:
                old = node.attributes[name].value
                node.attributes[name] = ir.convenience.convert_attribute(name, edit(old))

    return mistake


def forget(op: str, operand: int):
    def mistake(model: ir.Model) -> None:
        for node in nodes(model.graph, op):
            node.replace_input_with(operand, None)

    return mistake


def as_rms_norm(model: ir.Model) -> None:
    for node in nodes(model.graph, "LayerNorm"):
        out = emit(node, "RMSNorm", node.inputs[:2], node.outputs[0].shape, "onnxmake", epsilon=1e-5, offset=0.0)
        replace(node, [out])


def tie(model: ir.Model) -> None:
    change("Weight", "parts", lambda p: ["model.embed_tokens.weight"] if p == ("lm_head.weight",) else list(p))(model)


def swap_experts(model: ir.Model) -> None:
    """The first two of each stack: a gate and an up projection, or two down projections."""
    change("Weight", "parts", lambda p: [p[1], p[0], *p[2:]] if len(p) > 1 else list(p))(model)


MISTAKES = {
    "a dropped window": ("gpt_oss", drop("Attention", "window")),
    "a window one too long": ("gpt_oss", change("Attention", "window", lambda w: w + 1)),
    "a dropped soft cap": ("gemma2", drop("Attention", "softcap")),
    "dropped sinks": ("gpt_oss", forget("Attention", 6)),
    "an interleaved rotation": ("llama", change("RotaryEmbedding", "interleaved", lambda i: 1 - i)),
    "rope scaling ignored": (
        "llama-linear-mqa",
        change("RotaryTable", "frequencies", lambda f: [4 * value for value in f]),
    ),
    "a wrong scale": ("gemma2", change("Attention", "scale", lambda s: 1.05 * s)),
    "a forgotten padding mask": ("llama", forget("Attention", 5)),
    "a tied head that is not": ("llama", tie),
    "a swapped expert": ("mixtral", swap_experts),
    "a dropped norm offset": ("gemma", change("RMSNorm", "offset", lambda o: 0.0)),
    "a layer norm taken for an RMS norm": ("phi", as_rms_norm),
    "attention that looks ahead": ("llama", change("Attention", "causal", lambda c: 0)),
    "a wrong scale of linear attention": ("qwen3_next", change("LinearAttention", "scale", lambda s: 1.01 * s)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(twin, tmp_path, mistake):
    name, plant = MISTAKES[mistake]
    folder, graph = twin(name)
    model = ir.load(graph)
    before = ir.to_proto(model).SerializeToString()
    plant(model)
    assert ir.to_proto(model).SerializeToString() != before
    canonical.save(model, tmp_path / "wrong.onnx")
    file = parity.build(tmp_path / "wrong.onnx", folder, tmp_path / "portable", "portable")
    assert max(parity.compare(file, expected(folder)).values()) > 10 * TOLERANCE
