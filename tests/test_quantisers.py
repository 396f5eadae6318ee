"""Block quantisers that search: no worse than rounding to nearest, whatever the values, and the same bytes on every machine."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_bad_weights import NOTHING, check_nothing, check_poison

from onnxmake.model.emulate import rounded, values_of
from onnxmake.model.kernels import METHODS, quantize_rows
from onnxmake.model.quantisers.packing import pack, put_zero, unpack

SEARCHES = ("kquant", "hqq")
WIDTHS = st.sampled_from([2, 4, 8])
BLOCKS = st.sampled_from([16, 32, 64])


def ragged(elements) -> st.SearchStrategy[np.ndarray]:
    """Rows of a width that no block divides, or all."""
    return st.tuples(st.integers(1, 20), st.integers(1, 70)).flatmap(lambda s: arrays(np.float32, s, elements=elements))


def in_blocks(x: np.ndarray, block: int) -> np.ndarray:
    return np.pad(x.astype(np.float64), ((0, 0), (0, -x.shape[1] % block))).reshape(len(x), -1, block)


def weighted(x: np.ndarray, y: np.ndarray, block: int) -> np.ndarray:
    """Sum of (sqrt(mean(x^2)) + |x|) (x - y)^2 of each block; the mean is over the values that there are."""
    values, errors = in_blocks(x, block), in_blocks(x - y, block)
    counts = in_blocks(np.ones_like(x), block).sum(-1, keepdims=True)
    weights = np.sqrt((values**2).sum(-1, keepdims=True) / counts) + abs(values)
    return (weights * errors**2).sum(-1)


def robust(x: np.ndarray, y: np.ndarray, bits: int, block: int) -> np.ndarray:
    """The cost that hqq lowers, of each block: quadratic up to about half a code, then as the root."""
    values, errors = in_blocks(x, block), abs(in_blocks(x - y, block))
    length = np.maximum(values.max(-1), 0) - np.minimum(values.min(-1), 0)
    errors = errors * ((2**bits - 1) / np.maximum(length, 1e-30))[..., None]
    rest = np.minimum(errors, 0.5 / (np.sqrt(errors) + 5e-7))
    return (2 * np.sqrt(errors - rest) + rest**2).sum(-1)


@given(WIDTHS, st.data())
@settings(max_examples=60, deadline=None)
def test_codes_come_out_of_their_bytes_as_they_went_in(bits, data):
    codes = data.draw(arrays(np.uint8, 16 * data.draw(st.integers(1, 8)), elements=st.integers(0, 2**bits - 1)))
    out = np.empty(len(codes) * bits // 8, np.uint8)
    pack(codes, bits, out)
    np.testing.assert_array_equal(unpack(out, bits, len(codes)), codes)


@given(WIDTHS, st.data())
@settings(max_examples=60, deadline=None)
def test_zero_points_come_out_of_their_bytes_and_the_rest_of_the_last_is_the_middle(bits, data):
    points = data.draw(arrays(np.uint8, data.draw(st.integers(1, 9)), elements=st.integers(0, 2**bits - 1)))
    out = np.empty(-(-len(points) * bits // 8), np.uint8)
    for j, point in enumerate(points):
        put_zero(out, j, bits, np.float32(point))
    every = unpack(out, bits, len(out) * 8 // bits)
    np.testing.assert_array_equal(every[: len(points)], points)
    assert (every[len(points) :] == 2 ** (bits - 1)).all()


@given(ragged(st.floats(-4, 4, width=16)), WIDTHS, BLOCKS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_no_block_of_kquant_has_a_weighted_error_above_that_of_rounding_to_nearest(x, bits, block, symmetric):
    found, plain = (weighted(x, values_of(x, m, bits, block, symmetric), block) for m in ("kquant", "rtn"))
    assert (found <= plain * (1 + 1e-4) + 1e-9 * (1 + plain.max())).all()


@given(ragged(st.floats(-4, 4, width=16)), WIDTHS, BLOCKS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_no_block_of_hqq_costs_more_than_rounding_to_nearest(x, bits, block, symmetric):
    found, plain = (robust(x, values_of(x, m, bits, block, symmetric), bits, block) for m in ("hqq", "rtn"))
    assert (found <= plain * (1 + 1e-3) + 1e-3).all()


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("symmetric", [True, False])
@given(x=ragged(st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)))
@settings(max_examples=25, deadline=None)
def test_any_finite_values_give_finite_ones(method, symmetric, x):
    assert np.isfinite(values_of(x, method, 4, 32, symmetric)).all()
    assert not quantize_rows(x, method, 4, 32, symmetric)[3].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_zeros_stay_zeros_and_values_on_a_grid_stay_what_they_are(method, bits, symmetric):
    codes = np.random.default_rng(0).integers(0, 2**bits, (5, 96))
    codes[:, ::32], codes[:, 1::32] = 0, 2**bits - 1  # the whole range
    x = (codes - 2 ** (bits - 1)).astype(np.float32) / 8
    x[:, 32:64] = 0
    np.testing.assert_allclose(values_of(x, method, bits, 32, symmetric), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_reported_and_only_those(method, poison):
    x = np.ones((37, 40), np.float32)
    x[[3, 36], [17, 39]] = poison
    assert np.flatnonzero(quantize_rows(x, method, 4, 32, False)[3]).tolist() == [3, 36]


@pytest.mark.parametrize("method", SEARCHES)
def test_bytes_depend_neither_on_threads_nor_on_what_other_rows_hold(method):
    x = np.random.default_rng(1).standard_normal((50, 96)).astype(np.float32)
    whole = quantize_rows(x, method, 4, 32, False)
    numba.set_num_threads(1)
    try:
        one = quantize_rows(x, method, 4, 32, False)
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    alone = [quantize_rows(x[n : n + 1], method, 4, 32, False) for n in (0, 15, 16, 49)]
    for i, array in enumerate(whole):
        np.testing.assert_array_equal(one[i], array)
        np.testing.assert_array_equal(np.concatenate([a[i] for a in alone]), array[[0, 15, 16, 49]])


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("block", [32, 128])
def test_searches_lower_the_error_of_normal_values_by_what_they_are_known_to(method, block):
    x = np.random.default_rng(2).standard_normal((64, 512)).astype(np.float32)
    shares = {}
    for bits in (2, 4, 8):
        plain, found = ((x - values_of(x, m, bits, block, False)) for m in ("rtn", method))
        shares[bits] = (found**2).sum() / (plain**2).sum()
    assert shares[2] < 0.75 and shares[4] < 0.95 and shares[8] < 0.97, shares


def test_rounding_to_nearest_in_numpy_is_what_the_kernel_does():
    x = np.random.default_rng(3).standard_normal((9, 80)).astype(np.float32)
    packed, scales, zeros, _ = quantize_rows(x, "rtn", 2, 32, False)
    codes, points = unpack(packed, 2, 32).astype(np.float32), unpack(zeros, 2, 3)[..., None]
    stood = ((codes - points) * scales[..., None]).reshape(9, -1)[:, :80]
    np.testing.assert_array_equal(rounded(x, 2, 32, False), stood)


@pytest.mark.parametrize("method", SEARCHES)
def test_bad_weights_are_named_and_nothing_harms_nothing(method, tmp_path):
    check_poison(tmp_path / "poison", f"quantize_{method}", np.nan)
    for nothing in NOTHING:
        check_nothing(tmp_path / f"{nothing}", f"quantize_{method}", nothing)
