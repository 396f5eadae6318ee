"""Quantised twins against the same arithmetic in numpy: weights rounded there, and computed with by the portable graph."""

import re
import shutil

import numpy as np
import onnx_ir as ir
import pytest
from graphs import load_pass, operations
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from packers import AWQ_SETTINGS, compressed_settings, gptq_settings
from test_kernels import oracle
from test_repack import repacked
from twins import config_of

from onnxmake.build import paths
from onnxmake.build.source import describe
from onnxmake.errors import UnsupportedError
from onnxmake.model import canonical, parity, sweep
from onnxmake.model.emulate import rounded
from onnxmake.model.optimize import optimize
from onnxmake.model.quantisers.packing import unpack
from onnxmake.model.regroup import regroup
from onnxmake.model.safetensors import read_checkpoint

SETTINGS = {  # plain, transposed; experts in three layouts, which the runtime computes in float32 but for 8 bits
    "qwen2-tied": ("hqq", 4, False),
    "gpt2": ("kquant", 8, True),
    "gpt_oss": ("rtn", 4, True),
    "qwen3_moe": ("kquant", 2, False),
    "granitemoe": ("rtn", 4, True),
}
NAMES = tuple(SETTINGS)
TOLERANCE = 1e-4


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 18).map(lambda n: 4 * n)),
        elements=st.floats(-8, 8, width=16),
    ),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([16, 32]),
    st.booleans(),
    st.sampled_from(["float32", "float16", "bfloat16"]),
)
def test_numpy_rounds_as_onnxruntime_does(weight, bits, block, symmetric, kept):
    packed, scales, zeros = oracle(weight, bits, block, symmetric)
    codes = unpack(packed, bits, block)
    middle = np.full(scales.shape, 2.0 ** (bits - 1), np.float32)
    if not symmetric:
        middle = unpack(zeros, bits, scales.shape[1]).astype(np.float32)
    scales = scales.astype(kept).astype(np.float32)
    expected = ((codes - middle[..., None]) * scales[..., None]).reshape(len(weight), -1)[:, : weight.shape[1]]
    np.testing.assert_array_equal(rounded(weight, bits, block, symmetric, kept), expected.astype(np.float32))


@pytest.fixture(scope="module", params=NAMES)
def twin(request, tmp_path_factory):
    """Name, checkpoint folder and captured graph."""
    folder = tmp_path_factory.mktemp("quantised") / request.param
    sweep.make(config_of(request.param), folder)
    return request.param, folder


def test_quantised_twins_compute_with_weights_rounded_as_numpy_rounds_them(twin, tmp_path):
    name, folder = twin
    method, bits, symmetric = SETTINGS[name]
    model, used = ir.load(folder / "graph.onnx"), load_pass(f"quantize_{method}")
    optimize(model, "cpu")
    assert used.rewrite(model, used.Options(bits=bits, block_size=16, symmetric=symmetric)) > 0
    assert "MatMulNBits" in operations(model) and ("QMoE" in operations(model)) is (name in NAMES[2:])
    canonical.save(model, tmp_path / "model.onnx")
    errors = parity.check(str(folder), str(tmp_path / "model.onnx"), "cpu")
    assert max(errors.values()) < TOLERANCE


@pytest.mark.parametrize(("method", "name"), [("quantize_gptq", "gpt2"), ("quantize_awq", "qwen2-tied")])
def test_what_is_rounded_by_activations_is_what_is_computed_with(tmp_path, method, name):
    folder, used = tmp_path / name, load_pass(method)
    sweep.make(config_of(name), folder)
    model = ir.load(folder / "graph.onnx")
    optimize(model, "cpu")
    (tmp_path / "src").mkdir()
    canonical.save(model, tmp_path / "src" / "model.onnx")
    (tmp_path / "src" / "checkpoint").symlink_to(folder)
    (tmp_path / "src" / "calibration.txt").symlink_to(paths.TEXTS / "calibration.txt")
    (tmp_path / "out").mkdir()
    used.run(
        tmp_path / "src",
        tmp_path / "out",
        used.Options(block_size=16, calibration="calibration.txt", samples=4, tokens=64),
    )
    made = ir.load(tmp_path / "out" / "model.onnx")
    assert all("stored" in n.attributes for n in made.graph if n.op_type == "QuantizedWeight" and _multiplied(n))
    assert any("instead_of" in n.attributes for n in made.graph) is (method == "quantize_awq")
    errors = parity.check(str(folder), str(tmp_path / "out" / "model.onnx"), "cpu")
    assert max(errors.values()) < TOLERANCE


def _multiplied(weight: ir.Node) -> bool:
    return any(user.op_type == "MatMulNBits" for user, _ in weight.outputs[0].uses())


def test_experts_that_stay_are_not_quantised(twin):
    name, folder = twin
    model, rtn = ir.load(folder / "graph.onnx"), load_pass("quantize_rtn")
    optimize(model, "cpu")
    before = operations(model).count("Experts")
    assert bool(before) is (name in NAMES[2:])
    rtn.rewrite(model, rtn.Options(bits=4, block_size=16, experts="keep"))
    assert operations(model).count("Experts") == before and "QMoE" not in operations(model)


STORED = {  # twin -> quantization_config, type of scales, weights, what cannot be taken over without loss, what is kept then
    "qwen2-tied": [
        (gptq_settings(128, desc_act=True), "F16", "proj", "", ()),
        (compressed_settings(128, actorder="group"), "BF16", "proj", "", ()),
    ],
    "gpt2": [
        (gptq_settings(128), "F16", "c_", "it is read transposed", ())
    ],  # what such a checkpoint holds is not known
    "gpt_oss": [(compressed_settings(None), "F32", "self_attn.*proj", "", ())],
    "qwen3_moe": [
        (gptq_settings(128, sym=True), "F16", "proj", "", ()),
        (AWQ_SETTINGS | {"group_size": 128}, "F16", "proj", "zero points", ("*.experts.*",)),
        (gptq_settings(128, desc_act=True), "F16", "proj", "inputs in different orders", ("*.experts.*",)),
    ],
    "granitemoe": [(compressed_settings(None, 8, True, "int-quantized"), "F32", "proj", "", ())],
}


@pytest.fixture
def regrouped(twin, tmp_path):
    """Copies of the twin, stored as methods of quantisation store a checkpoint: folder, what is refused, what is kept."""
    name, folder = twin
    for number, (settings_, scales, weights, *_) in enumerate(STORED[name]):
        place = tmp_path / str(number)
        shutil.copytree(folder, place)
        tensors = read_checkpoint(place)
        names = {re.sub(r"\d+", "*", t) for t in tensors if re.search(weights, t) and t.endswith("weight")}
        before = describe(place)[1]
        assert regroup(str(place), settings_, sorted(names), scales) > 5
        assert describe(place)[1] == before  # so export makes the same graph
    return [(tmp_path / str(i), refused, keep) for i, (*_, refused, keep) in enumerate(STORED[name])]


def test_twins_that_are_stored_quantised_compute_with_their_values(regrouped, output):
    for folder, refused, keep in regrouped:
        model = ir.load(folder / "graph.onnx")
        optimize(model, "cpu")
        if refused:
            with pytest.raises(UnsupportedError, match=refused):
                repacked(ir.from_proto(ir.to_proto(model)), folder, folder / "refused")
        if refused and not keep:
            continue
        experts = "Experts" in operations(model)
        made = repacked(model, folder, folder, keep=keep)
        assert "MatMulNBits" in operations(made) and "QuantizedWeight" in operations(made)
        assert ("QMoE" in operations(made)) is (experts and not keep and "experts.0" in str(read_checkpoint(folder)))
        errors = parity.check(str(folder), str(folder / "out" / "model.onnx"), "cpu")
        assert max(errors.values()) < TOLERANCE


def test_a_twin_with_other_names_is_told(twin, tmp_path):
    shutil.copytree(twin[1], tmp_path / "twin")
    with pytest.raises(UnsupportedError, match=r"no tensor named as those that are quantised: x\.\*\.weight"):
        regroup(str(tmp_path / "twin"), gptq_settings(128), ["x.*.weight"], "F16")
    assert "quantization_config" not in (tmp_path / "twin" / "config.json").read_text()
