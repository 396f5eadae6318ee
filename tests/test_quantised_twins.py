"""Quantised twins against the same arithmetic in numpy: weights rounded there, and computed with by the portable graph."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import load_pass, operations
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_kernels import oracle
from twins import config_of

from onnxmake.build import paths
from onnxmake.model import canonical, parity, sweep
from onnxmake.model.emulate import rounded
from onnxmake.model.optimize import optimize
from onnxmake.model.quantisers.packing import unpack

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
