"""The quantisation kernel gives onnxruntime's bytes, for any values, width, block and thread count."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxruntime.capi._pybind_state import quantize_matmul_2bits, quantize_matmul_4bits, quantize_matmul_8bits

from onnxmake.model.kernels import quantize_rows

ORACLES = {2: quantize_matmul_2bits, 4: quantize_matmul_4bits, 8: quantize_matmul_8bits}


def ours(rows: np.ndarray, bits: int, block: int, symmetric: bool):
    """Of bits of float32 or bfloat16."""
    return quantize_rows(rows.view("bfloat16" if rows.itemsize == 2 else "float32"), "rtn", bits, block, symmetric)


def oracle(rows: np.ndarray, bits: int, block: int, symmetric: bool):
    """onnxruntime's bytes. It wants [K, N], C-contiguous."""
    count, width = rows.shape
    blocks = -(-width // block)
    packed, scales = np.zeros((count, blocks, block * bits // 8), np.uint8), np.zeros(count * blocks, np.float32)
    zeros = np.zeros((count, -(-blocks * bits // 8)), np.uint8)
    ORACLES[bits](packed, np.ascontiguousarray(rows.T), scales, zeros.reshape(-1), block, count, width, symmetric)
    return packed, scales.reshape(count, blocks), zeros


def check(values: np.ndarray, bfloat: bool, bits: int, block: int, symmetric: bool) -> None:
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if bfloat:
        raw = (raw >> 16).astype(np.uint16)
        values = (raw.astype(np.uint32) << 16).view(np.float32)
    packed, scales, zeros, bad = ours(raw, bits, block, symmetric)
    expected = oracle(np.asarray(values, np.float32), bits, block, symmetric)
    assert not bad.any()
    np.testing.assert_array_equal(packed, expected[0])
    np.testing.assert_array_equal(scales, expected[1])
    if not symmetric:
        np.testing.assert_array_equal(zeros, expected[2])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bytes_equal_onnxruntimes_with_zeros_ties_tiny_and_one_sided_rows(bits, block, symmetric):
    values = np.random.default_rng(0).standard_normal((24, 320)).astype(np.float32)
    values[0] = 0
    values[1], values[2] = abs(values[1]), -abs(values[2])
    values[3] *= np.float32(1e-30)
    values[4, ::2], values[4, 1::2] = 0.5, -0.5
    for bfloat in (False, True):
        check(values, bfloat, bits, block, symmetric)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
    bfloat=st.booleans(),
)
def test_bytes_equal_onnxruntimes_for_any_values(data, bits, block, symmetric, bfloat):
    shape = (
        data.draw(st.integers(1, 4)),
        4 * data.draw(st.integers(1, 35)),
    )  # whole bytes: the rest of one is not its own
    values = data.draw(arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)))
    check(values, bfloat, bits, block, symmetric)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_halves_and_what_is_just_below_are_rounded_as_onnxruntime_rounds_them(bits):
    values = abs(np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32))
    values[:, 0] = values.max(1)
    values[:, 1] = values[:, 0] / (2 ** (bits + 1) - 2)  # half a code
    check(values, True, bits, 64, False)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_reported_and_only_those(poison):
    values = np.ones((5, 64), np.float32)
    values[3, 17] = poison
    assert ours(values.view(np.uint32), 4, 32, True)[3].tolist() == [0, 0, 0, 1, 0]


def test_bytes_do_not_depend_on_the_thread_count():
    rows = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32).view(np.uint32)
    numba.set_num_threads(1)
    try:
        one = ours(rows, 4, 32, False)
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for a, b in zip(one, ours(rows, 4, 32, False)):
        np.testing.assert_array_equal(a, b)
