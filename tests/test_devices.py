"""The tables of devices that this machine may lack: what their graphs hold, and the numbers on the CPU provider."""

import functools
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import bind, load_pass, operations, run
from onnxruntime import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
from test_passes import checkpoint, head
from test_twins import change, lowered

from onnxmake.build import twin as compared
from onnxmake.errors import UnsupportedError
from onnxmake.model import canonical, parity, reference, sweep
from onnxmake.model.graph import CONTRIB, nodes
from onnxmake.model.lowering import lower, provider_options, table
from onnxmake.model.running import Runner

TWINS = ("llama-rope3-biases-tied", "mistral", "phi3-longrope", "phi4-mini", "qwen2-tied", "qwen3")
PACKED = {"llama-rope3-biases-tied", "mistral", "phi3-longrope", "qwen2-tied"}
PORTABLE = {"phi4-mini"}  # rotations that CUDA's attention does not take inside
REACHING = {"phi3-longrope"}  # frequencies that depend on the last position
CASES = [(d, name) for d in ("cuda", "directml", "webgpu") for name in TWINS]
WINDOWED = {("directml", "mistral")}  # plain ops in place of its attention kernel
# what both providers have a kernel for, by onnxruntime's docs/OperatorKernels.md
BOTH = """Add And BitShift BitwiseAnd Cast Concat Constant Cos Gather GreaterOrEqual Less LessOrEqual MatMul Mul Neg Range
    ReduceMax ReduceSum Reshape Shape Sigmoid SimplifiedLayerNormalization Sin Slice Softmax Split Sub Transpose Unsqueeze
    Where FusedMatMul GroupQueryAttention MatMulNBits QuickGelu RotaryEmbedding SkipSimplifiedLayerNormalization"""
IDS, MASK = np.random.default_rng(7).integers(3, 160, (2, 24)), np.ones((2, 24), np.int64)


def passed(graph, *steps) -> ir.Model:
    """The graph after passes, each given by name and its options."""
    built = ir.load(graph)
    for name, *options in steps:
        assert load_pass(name).rewrite(built, load_pass(name).Options(*options)) > 0
    return built


def unknown(built: ir.Model, device: str) -> set[str]:
    """Operators without a kernel; those of WebGPU's provider, test_webgpu.py asks of itself."""
    more = {"cuda": {"GatherBlockQuantized"}, "directml": set(), "webgpu": {"GatherBlockQuantized"}}[device]
    return {*operations(built)} - {*BOTH.split(), *more} | (
        {*operations(built)} & {"FusedMatMul"} if device == "webgpu" else set()
    )


@pytest.mark.parametrize(("device", "name"), CASES)
def test_logits_equal_the_portable_table_in_prefill_and_cached_decode(twin, tmp_path, device, name):
    folder, graph = twin(name)
    decoders = [Runner(lowered(graph, folder, tmp_path / d, d)) for d in ("portable", device)]
    pasts = [decoder.empty(2) for decoder in decoders]
    for start, end in [(0, 18), *((t, t + 1) for t in range(18, 24))]:
        results = [d(IDS[:, start:end], MASK[:, :end], past) for d, past in zip(decoders, pasts)]
        (expected, actual), pasts = zip(*results)
        assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("device", "name"), CASES)
def test_graphs_hold_what_the_device_takes(twin, tmp_path, device, name):
    folder, graph = twin(name)
    built = ir.load(lowered(graph, folder, tmp_path, device))
    assert built.ir_version <= 10 and built.opset_imports[""] <= 22 and built.opset_imports[CONTRIB] == 1
    assert not unknown(built, device)
    attentions, turns = nodes(built.graph, "GroupQueryAttention"), nodes(built.graph, "RotaryEmbedding")
    if (device, name) in WINDOWED:
        assert not attentions and "Softmax" in operations(built)
        return
    rotary, asks = {n.attributes["do_rotary"].value for n in attentions}, built.graph.inputs[2].name == "position_ids"
    if device != "directml":
        assert rotary == {int(name not in PORTABLE)} and asks is (name in PORTABLE | REACHING)
        assert len(turns) == 2 * len(attentions) * (name in PORTABLE)
        assert all((n.inputs[1] is None) is (name in PACKED) for n in attentions)
        return
    assert rotary == {0} and asks and all(None not in n.inputs[:7] and not any(n.inputs[7:]) for n in attentions)
    assert {v for n in attentions for v in n.inputs[:2]} >= {n.outputs[0] for n in turns}
    assert len(turns) == 2 * len(attentions)
    for node in turns:
        x, positions, *caches = node.inputs
        assert x.shape.rank() == 3 and positions.name == "position_ids"
        assert [v.producer().op_type for v in caches] == (["Slice"] * 2 if name in REACHING else ["Cos", "Sin"])
        assert ("rotary_embedding_dim" in node.attributes) is ("num_heads" in node.attributes) is (name == "phi4-mini")


def test_norms_of_q_and_k_stand_where_cuda_s_runtime_takes_them_into_attention(twin):
    """Which it does as it loads a model, where each is between two Reshape, in front of an attention that rotates."""
    attentions = nodes(passed(twin("qwen3")[1], ("optimize", "cuda")).graph, "GroupQueryAttention")
    for node in attentions:
        assert node.attributes["do_rotary"].value == 1
        for outer in (value.producer() for value in node.inputs[:2]):
            norm = outer.inputs[0].producer()
            chain = [n.op_type for n in (outer, norm, norm.inputs[0].producer())]
            assert chain == ["Reshape", "SimplifiedLayerNormalization", "Reshape"]
    assert attentions


@pytest.fixture(scope="module")
def known(twin, tmp_path_factory):
    """name -> a copy of the twin, with what Transformers computes of it in each type beside its weights."""

    @functools.cache
    def make(name: str) -> tuple[Path, Path]:
        source, graph = twin(name)
        folder = shutil.copytree(source, tmp_path_factory.mktemp("known") / name)
        for file, dtype in {"expected": torch.float32, **sweep.HALVES}.items():
            arrays: Any = reference.expected(folder, "model", dtype)
            np.savez(folder / f"{file}.npz", **arrays)
        shutil.copyfile(graph, folder / "graph.onnx")
        return folder, graph

    return make


def losses(folder, graph, out, device: str, dtype: str, *steps) -> dict[str, float]:
    """How many times as much as Transformers the graph loses in 16 bits."""
    canonical.save(passed(graph, ("cast", dtype), ("optimize", device), *steps), out / "model.onnx")
    return parity.check(str(folder), str(out / "model.onnx"), device)


@pytest.mark.parametrize("name", ["qwen2-tied", "phi4-mini"])
@pytest.mark.parametrize(
    ("device", "dtype"), [("cuda", "fp16"), ("cuda", "bf16"), ("directml", "fp16"), ("webgpu", "fp16")]
)
def test_a_model_loses_little_more_in_16_bits_than_transformers_does(known, tmp_path, name, device, dtype):
    errors = losses(*known(name), tmp_path, device, dtype)
    ways = {"", " rounded"} if dtype == "fp16" else {" rounded"}
    assert errors.keys() == {f"{output}{way}" for output in ("prefill", "decode") for way in ways}
    assert min(errors.values()) > 0.1 and max(errors.values()) < compared.TIMES


def test_quantised_weights_add_no_loss_of_their_own(known, tmp_path):
    errors = losses(*known("qwen2-tied"), tmp_path, "cuda", "fp16", ("quantize_rtn", 4, 16))
    assert min(errors.values()) > 0.1 and max(errors.values()) < compared.TIMES


def test_a_model_that_transformers_itself_computes_no_numbers_of_is_refused(known, tmp_path):
    folder = shutil.copytree(known("qwen2-tied")[0], tmp_path / "twin")
    with np.load(folder / "fp16.npz") as arrays:
        spoilt: Any = {name: array * np.nan if name == "logits" else array for name, array in arrays.items()}
    np.savez(folder / "fp16.npz", **spoilt)
    with pytest.raises(UnsupportedError, match="Transformers computes no numbers of the model in fp16"):
        losses(folder, folder / "graph.onnx", tmp_path, "cuda", "fp16")


PLANTED = {
    "a wrong scale": change("Attention", "scale", lambda scale: 1.05 * scale),
    "another epsilon": change("RMSNorm", "epsilon", lambda epsilon: 1000 * epsilon),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_mistake_is_caught_in_16_bits(known, tmp_path, mistake):
    folder, graph = known("qwen2-tied")
    model = ir.load(graph)
    PLANTED[mistake](model)
    canonical.save(model, tmp_path / "wrong.onnx")
    errors = losses(folder, tmp_path / "wrong.onnx", tmp_path, "cuda", "fp16")
    assert min(errors.values()) > compared.TIMES


@pytest.mark.parametrize(
    ("device", "dtype"), [("cuda", "fp16"), ("cuda", "bf16"), ("directml", "fp16"), ("webgpu", "fp16")]
)
@pytest.mark.parametrize("name", ["phi3-longrope", "qwen2-tied"])
def test_quantised_graphs_are_well_typed(twin, tmp_path, device, dtype, name):
    folder, graph = twin(name)
    built = passed(graph, ("cast", dtype), ("optimize", device), ("quantize_rtn", 4, 16))
    file = bind(built, folder, tmp_path, device)
    assert not unknown(built, device)
    # the runtime infers types and compares them with the file's before it looks for kernels
    with pytest.raises(NoKernel, match="Could not find an implementation") if dtype == "bf16" else nullcontext():
        InferenceSession(str(file), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("width", [64, 96])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_products_and_look_ups_equal_those_of_the_cpu(tmp_path, bits, symmetric, width):
    rtn, (source, _), ids = load_pass("quantize_rtn"), checkpoint(tmp_path, width), np.array([[1, 5, 47], [0, 2, 9]])
    expected = None
    for device in ("cpu", "cuda", "directml", "webgpu"):
        built = head(tied=True, biased=True, width=width)
        rtn.rewrite(built, rtn.Options(bits=bits, symmetric=symmetric, accuracy_level=1))
        lower(built.graph, device)  # binding lowers once more
        actual = run(bind(built, source, tmp_path / device, device), input_ids=ids)[0]
        expected = actual if expected is None else expected
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
        products = nodes(built.graph, "MatMulNBits")
        assert all(("accuracy_level" in n.attributes) is (device in {"cpu", "webgpu"}) for n in products)
        assert max(len(n.inputs) for n in products) == (4 - symmetric if device == "directml" else 6)
        assert ("GatherBlockQuantized" in operations(built)) is (device != "directml")
        assert sum("embed" in n for n in built.graph.initializers) == 3 - symmetric  # stored once


@pytest.mark.parametrize("device", ["cuda", "directml"])
@pytest.mark.parametrize(
    "keep", [{"embeddings": "keep"}, {"lm_head": "keep", "keep": ("inner",), "embeddings": "int2"}]
)
def test_weights_of_2_bits_are_refused_where_no_kernel_is_known_to_read_them(device, keep):
    built, rtn = head(), load_pass("quantize_rtn")
    assert rtn.rewrite(built, rtn.Options(bits=2, **keep))
    with pytest.raises(UnsupportedError, match="weights of 2 bits"):
        lower(built.graph, device)


@pytest.mark.parametrize("ask", [{"window": 8}, {"window": 256}, {"softcap": 50.0}])
def test_directml_s_kernel_gets_no_attention_that_it_would_simplify(twin, ask):
    built, optimize = ir.load(twin("qwen2-tied")[1]), load_pass("optimize")
    for node in nodes(built.graph, "Attention"):
        node.attributes.update({n: ir.convenience.convert_attribute(n, v) for n, v in ask.items()})
    optimize.rewrite(built, optimize.Options("directml"))
    kernels = nodes(built.graph, "GroupQueryAttention")
    assert bool(kernels) is (ask == {"window": 256})  # as long as the context
    assert ("Softmax" in operations(built)) is not bool(kernels)


@pytest.mark.parametrize("optimized", ["cpu", "cuda", "directml", "webgpu", "portable"])
def test_genai_is_told_the_provider_and_whether_caches_are_shared(twin, tmp_path, optimized):
    (folder, graph), package = twin("qwen2-tied"), load_pass("package_genai")
    device, src, out = optimized.replace("portable", "cpu"), tmp_path / "src", tmp_path / "out"
    src.mkdir()
    out.mkdir()
    canonical.save(passed(graph, ("optimize", optimized)), src / "model.onnx")
    (src / "checkpoint").symlink_to(folder)
    package.run(src, out, package.Options(device))
    config = json.loads((out / "genai_config.json").read_text())
    names = {"cuda": ["cuda"], "directml": ["dml"], "webgpu": ["webgpu"]}
    decoder, providers = config["model"]["decoder"], names.get(device, [])
    assert [name for entry in decoder["session_options"]["provider_options"] for name in entry] == providers
    assert ("position_ids" in decoder["inputs"]) is (optimized in {"directml", "portable"})
    assert config["search"]["past_present_share_buffer"] is (optimized != "portable")


def test_an_unknown_device_is_refused_with_those_there_are():
    for ask in (table, provider_options):
        with pytest.raises(UnsupportedError, match="'tpu'(.|\n)*cpu, cuda, directml, portable, webgpu"):
            ask("tpu")
