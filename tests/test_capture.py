"""What capture recognises in Transformers' code, against that code: masks, checkpoint rules, norms, rotations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, masking_utils
from transformers.core_model_loading import Chunk, Concatenate, Transpose, WeightConverter, WeightRenaming
from transformers.models.cohere import modeling_cohere
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.glm import modeling_glm
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from twins import make_twin

from onnxmake.model.capture import known, masks, modules, norms, rotations, sources
from onnxmake.model.capture.masks import Visibility
from onnxmake.model.safetensors import read_checkpoint


def reads_tokens(batch, head, query, key):
    return torch.ones(100, dtype=torch.bool)[key]


def chunked(size: int):
    return masking_utils.chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        (masking_utils.causal_mask_function, Visibility(True)),
        (masking_utils.bidirectional_mask_function, Visibility(False)),
        *((masking_utils.sliding_window_causal_mask_function(w), Visibility(True, w)) for w in (1, 2, 8, 4096, 70_000)),
        (masking_utils.sliding_window_bidirectional_mask_function(8), None),
        *((chunked(size), None) for size in (3, 8, 100, 4096, 8192)),
        (reads_tokens, None),
        (lambda batch, head, query, key: (key <= query) & (key % 2 == 0), None),
        (lambda batch, head, query, key: key < query, None),
    ],
)
def test_a_mask_is_known_only_where_it_is_causal_full_or_a_window(function, seen):
    assert masks.probe(function) == seen


def rebuilt(found, tensors) -> torch.Tensor:
    parts, transposed, leading = found
    stored = {p.name: tensors[p.name].mT if transposed else tensors[p.name] for p in parts}
    rows = [stored[p.name].reshape(-1, stored[p.name].shape[-1]) for p in parts]
    assert all(p.whole == ((p.start, p.end) == (0, len(r))) for p, r in zip(parts, rows))
    return torch.cat([r[p.start : p.end] for p, r in zip(parts, rows)]).reshape(*leading, rows[0].shape[-1])


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "gpt_oss", "granitemoe", "gpt2", "phi", "hrm_text"])
def test_sources_give_the_parameters_that_transformers_loads(tmp_path, name):
    from safetensors.torch import load_file

    loaded = AutoModelForCausalLM.from_pretrained(make_twin(name, tmp_path), dtype=torch.float32)
    tensors = load_file(tmp_path / "model.safetensors")
    found = sources.sources(loaded, {n: list(t.shape) for n, t in read_checkpoint(tmp_path).items()})
    state = loaded.state_dict()
    assert set(state) - set(found) <= set(loaded.all_tied_weights_keys)
    for parameter, entry in found.items():
        torch.testing.assert_close(rebuilt(entry, tensors), state[parameter], rtol=0, atol=0)
    assert {p.name for parts, _, _ in found.values() for p in parts} == set(tensors)


RULES = {  # rule, stored tensors, and what Transformers' operation makes of them
    "split": (
        WeightConverter("mlp.fused.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], [Chunk(dim=0)]),
        {"model.layers.0.mlp.fused.weight": (224, 64)},
        lambda w: {"gate_proj": w[:112], "up_proj": w[112:]},
    ),
    "transposed": (
        WeightConverter("mlp.turned.weight", "mlp.down_proj.weight", [Transpose(dim0=0, dim1=1)]),
        {"model.layers.0.mlp.turned.weight": (112, 64)},
        lambda w: {"down_proj": w.T},
    ),
    "joined": (
        WeightConverter(["mlp.a.weight", "mlp.b.weight"], "mlp.down_proj.weight", [Concatenate(dim=0)]),
        {"model.layers.0.mlp.a.weight": (24, 112), "model.layers.0.mlp.b.weight": (40, 112)},
        lambda a, b: {"down_proj": torch.cat([a, b])},
    ),
    "renamed": (
        WeightRenaming("mlp.narrow", "mlp.down_proj"),
        {"model.layers.0.mlp.narrow.weight": (64, 112)},
        lambda w: {"down_proj": w},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_that_split_turn_join_and_rename_become_rows_to_read(tmp_path, monkeypatch, rule):
    loaded = AutoModelForCausalLM.from_pretrained(make_twin("llama", tmp_path))
    change, shapes, made = RULES[rule]
    monkeypatch.setattr(sources, "get_model_conversion_mapping", lambda model: [change])
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    found = sources.sources(loaded, {name: list(t.shape) for name, t in tensors.items()})
    expected = {f"model.layers.0.mlp.{k}.weight": v for k, v in made(*tensors.values()).items()}
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(rebuilt(found[name], tensors), tensor)


@pytest.fixture
def said(monkeypatch):
    """What is said in semantic ops: op, operands and attributes of each."""
    calls = []
    symbolic = lambda op, operands, attributes, **_: calls.append((op, operands, attributes)) or operands[0]  # noqa: E731
    monkeypatch.setattr(torch.onnx.ops, "symbolic", symbolic)
    return calls


@pytest.mark.parametrize(
    ("module", "op", "epsilon", "offset"),
    [
        (modeling_llama.LlamaRMSNorm(16, eps=1e-5), "RMSNorm", 1e-5, 0.0),
        (modeling_llama.LlamaRMSNorm(16, eps=1e-6), "RMSNorm", 1e-6, 0.0),
        (GemmaRMSNorm(16, eps=1e-6), "RMSNorm", 1e-6, 1.0),
        (nn.LayerNorm(16, eps=1e-5), "LayerNorm", 1e-5, 0.0),
        (nn.LayerNorm(16, eps=1e-5, bias=False), "LayerNorm", 1e-5, 0.0),
        (NemotronLayerNorm1P(16, eps=1e-5), "LayerNorm", 1e-5, 1.0),
    ],
)
def test_a_norm_becomes_one_op_with_its_epsilon_and_offset(said, module, op, epsilon, offset):
    x, before = torch.randn(2, 3, 16), {name: p.clone() for name, p in module.named_parameters()}
    norms.norm(module)(x)
    ((name, operands, attributes),) = said
    assert (name, attributes) == (f"onnxmake::{op}", {"epsilon": epsilon, "offset": offset})
    assert [id(t) for t in operands] == [id(t) for t in (x, *module.parameters())]
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())  # the probe left them as they were


class Gated(nn.Module):
    """Any norm-like module: `formula` of x, weight and epsilon, times a gate if there is one."""

    def __init__(self, formula, width=(16,), **more):
        super().__init__()
        self.formula, self.epsilon, self.weight = formula, 1e-5, nn.Parameter(torch.rand(width) + 0.5)
        for name, child in more.items():
            setattr(self, name, child)

    def forward(self, x, gate=None):
        out = self.formula(x, self.weight, self.epsilon)
        return out if gate is None else out * nn.functional.silu(gate)


def rms(x, weight, epsilon):
    return norms.rms_norm(x, weight, epsilon, 0.0)


@pytest.mark.parametrize(
    "module",
    [
        Gated(lambda x, weight, epsilon: x / (x.abs().mean(-1, keepdim=True) + epsilon) * weight),
        Gated(lambda x, weight, epsilon: rms(x, weight, epsilon).tanh()),
        Gated(lambda x, weight, epsilon: rms(x, weight, 3e-5)),  # an epsilon that the module does not hold
        Gated(lambda x, weight, epsilon: rms(x, weight + 2, epsilon)),
        Gated(lambda x, weight, epsilon: x * weight),
        Gated(lambda x, weight, epsilon: (rms(x, weight, epsilon), x)),
        Gated(rms, child=nn.Identity()),
        Gated(rms, scale=nn.Parameter(torch.ones(16))),
        Gated(rms, width=(1, 16)),
        nn.Linear(16, 16),
        nn.Identity(),
    ],
)
def test_a_module_that_computes_something_else_is_no_norm(module):
    assert norms.norm(module) is None


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize("bias", [True, False])
def test_a_subclass_of_linear_is_a_product_where_it_computes_one(said, bias):
    module, x = FalconLinear(8, 4, bias=bias), torch.randn(2, 8)
    before = {name: p.clone() for name, p in module.named_parameters()}
    modules._linear(module)(x)
    ((name, operands, attributes),) = said
    assert (name, attributes) == ("onnxmake::Linear", {})
    assert [id(t) for t in operands] == [id(t) for t in (x, *module.parameters())]
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    assert modules._linear(Scaled(8, 4, bias=bias)) is None


def test_a_gated_norm_is_an_op_without_a_gate_and_its_own_code_with_one(said):
    module, x, gate = Gated(rms), torch.randn(2, 16), torch.randn(2, 16)
    forward = norms.norm(module)
    for out in (forward(x, gate), forward(x, gate=gate)):
        torch.testing.assert_close(out, module(x, gate), rtol=0, atol=0)
    assert not said
    for call in (lambda: forward(x), lambda: forward(x, None), lambda: forward(x, gate=None)):
        call()
    assert [op for op, *_ in said] == ["onnxmake::RMSNorm"] * 3


def backwards(q, k, cos, sin):
    return modeling_llama.apply_rotary_pos_emb(q, k, cos, -sin)


@pytest.mark.parametrize(
    ("function", "layout", "width", "interleaved"),
    [
        (modeling_llama.apply_rotary_pos_emb, "halves", 32, False),
        (modeling_llama.apply_rotary_pos_emb, "halves", 16, None),
        (modeling_llama.apply_rotary_pos_emb, "neighbours", 32, None),
        (modeling_cohere.apply_rotary_pos_emb, "neighbours", 32, True),
        (modeling_glm.apply_rotary_pos_emb, "halves", 32, True),
        (modeling_glm.apply_rotary_pos_emb, "halves", 16, True),
        (modeling_gpt_oss.apply_rotary_pos_emb, "once", 32, False),
        (backwards, "halves", 32, None),
        (lambda q, k, cos, sin: (q, k), "halves", 32, None),
        (lambda q: q, "halves", 32, None),
    ],
)
def test_a_rotation_is_one_op_each_for_query_and_key_or_stays_as_it_is(said, function, layout, width, interleaved):
    assert rotations._rotates(function, 32, width, layout) is interleaved
    q, k = torch.randn(1, 4, 3, 32), torch.randn(1, 2, 3, 32)
    cos, sin = (rotations.LAYOUTS[layout](torch.randn(1, 3, width // 2)) for _ in range(2))
    try:
        expected = function(q, k, cos, sin)
    except (RuntimeError, TypeError) as error:
        with pytest.raises(type(error)):
            rotations.rotation(function, layout)(q, k, cos, sin)
    else:
        got = rotations.rotation(function, layout)(q, k, cos, sin)
        assert interleaved is not None or all(torch.equal(a, b) for a, b in zip(got, expected))
    attributes = {"interleaved": int(interleaved or 0), "layout": layout}
    ops = [] if interleaved is None else [("onnxmake::RotaryEmbedding", attributes)] * 2
    assert [(op, attributes) for op, _, attributes in said] == ops
    assert all(operands[0] is x for (_, operands, _), x in zip(said, (q, k)))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 5), st.booleans(), st.integers(0, 2**31))
def test_a_rotation_keeps_the_length_of_every_pair_and_passes_the_rest(half, rest, interleaved, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 4, 2 * half + rest, generator=generator, dtype=torch.float64)
    angle = torch.randn(2, 4, half, generator=generator, dtype=torch.float64)
    out = rotations.rotate(x, angle.cos(), angle.sin(), interleaved)
    pairs = [(t[..., : 2 * half].unflatten(-1, (-1, 2) if interleaved else (2, -1))) for t in (x, out)]
    lengths = [t.norm(dim=-1 if interleaved else -2) for t in pairs]
    torch.testing.assert_close(*lengths)
    dots = (pairs[0] * pairs[1]).sum(-1 if interleaved else -2) / lengths[0] ** 2
    torch.testing.assert_close(dots, angle.cos()[:, None].expand_as(dots))
    assert torch.equal(out[..., 2 * half :], x[..., 2 * half :])


class Cut(nn.Module):
    """As Gemma 3n's: a quantile of the normal distribution, of a constant or of what comes in."""

    def forward(self, x, share=None):
        share = torch.tensor(0.95) if share is None else share
        return x * torch.distributions.normal.Normal(0, 1).icdf(share).type(x.dtype)


def test_what_onnx_lacks_is_computed_of_constants_and_left_otherwise():
    x, share = torch.ones(2, 3), torch.tensor(0.5)
    program = torch.export.export(Cut(), (x,), strict=False)
    wanted = program.module()(x)
    known.fold(program)
    assert not [n for n in program.graph.nodes if n.target in known.LACKING]
    torch.testing.assert_close(program.module()(x), wanted)
    torch.onnx.export(program, dynamo=True, verbose=False)
    program = torch.export.export(Cut(), (x, share), strict=False)
    known.fold(program)
    assert [n for n in program.graph.nodes if n.target in known.LACKING]
