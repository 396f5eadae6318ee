"""Rounding with an eye on activations: GPTQ's arithmetic, scales that are fitted, and how codes are packed and stored."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import node
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxmake.model.emulate import rounded
from onnxmake.model.gptq import gptq, inverse_factor, order_of
from onnxmake.model.quantisers.fitting import nearest
from onnxmake.model.quantisers.packing import packed, unpack
from onnxmake.model.safetensors import read_header
from onnxmake.model.stored import FILE, Stored, dequantized

WEIGHTS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=st.floats(-8, 8, width=16))
BITS, BLOCKS = st.sampled_from([2, 4, 8]), st.sampled_from([16, 32])


def gram(width: int, tokens: int = 400, seed: int = 0) -> np.ndarray:
    """Of activations whose channels go together."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, width), np.float32) @ rng.standard_normal((width, width), np.float32)
    return x.T @ x


def loss(weight: np.ndarray, found: tuple, block: int, hessian: np.ndarray) -> float:
    difference = (dequantized(*found, block) - weight).astype(np.float64)
    return float(np.vdot(difference @ hessian, difference))


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 40))), BITS)
def test_codes_come_out_of_bytes_as_they_went_in(codes, bits):
    codes = codes & np.uint8(2**bits - 1)
    data = packed(codes, bits)
    assert data.shape == (len(codes), -(-codes.shape[1] * bits // 8))
    np.testing.assert_array_equal(unpack(data, bits, codes.shape[1]), codes)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, BITS, BLOCKS, st.booleans())
def test_fitted_scales_lose_no_more_than_the_extremes(weight, bits, block, symmetric):
    found = nearest(np.ones(weight.shape[1], np.float32), weight, bits, block, symmetric)
    assert all(np.isfinite(array).all() for array in found)
    ours, plain = (
        np.square(w - weight).sum() for w in (dequantized(*found, block), rounded(weight, bits, block, symmetric))
    )
    assert ours <= plain * (1 + 1e-4) + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 5))
def test_the_factor_is_that_of_the_inverse(width, seed):
    hessian = gram(width, seed=seed) + 10 * np.eye(width, dtype=np.float32)
    factor = inverse_factor(hessian).astype(np.float64)
    assert (np.tril(factor, -1) == 0).all()
    np.testing.assert_allclose(factor.T @ factor @ hessian, np.eye(width), atol=5e-2)


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, BITS, BLOCKS, st.booleans(), st.booleans())
def test_channels_that_do_not_go_together_are_rounded_to_nearest(weight, bits, block, symmetric, act_order):
    width = weight.shape[1]
    found = gptq(order_of(np.eye(width, dtype=np.float32), 0.0, act_order), weight, bits, block, symmetric)
    for ours, expected in zip(found, nearest(np.ones(width, np.float32), weight, bits, block, symmetric)):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(
    ("width", "block"), [(96, 32), (600, 128), (50, 16)]
)  # several panels; a last block that is not whole
def test_errors_are_made_up_for(width, block, act_order):
    weight, hessian = np.random.default_rng(1).standard_normal((8, width), np.float32), gram(width, 2 * width)
    found = gptq(order_of(hessian, 0.01, act_order), weight, 4, block, True)
    assert found[0].max() <= 15 and found[1].shape == (8, -(-width // block))
    simple = nearest(np.diag(hessian), weight, 4, block, True)
    assert loss(weight, found, block, hessian) < 0.6 * loss(weight, simple, block, hessian)


def test_channels_that_are_never_used_and_blocks_of_zeros():
    weight, hessian = np.ones((4, 64), np.float32), gram(64)
    weight[:, 32:] = 0
    hessian[5], hessian[:, 5] = 0, 0
    codes, scales, zeros = gptq(order_of(hessian, 0.01, False), weight, 4, 32, False)
    assert np.isfinite(scales).all()
    values = dequantized(codes, scales, zeros, 32)
    assert np.abs(values[:, 32:]).max() < 1e-5 and np.abs(np.delete(values[:, :32], 5, 1) - 1).max() < 0.3


def quantized_weight(rows: int, width: int, bits: int, block: int, symmetric: bool) -> ir.Node:
    byte, blocks = ir.DataType.UINT8, -(-width // block)
    shapes = [[rows, blocks, block * bits // 8], [rows, blocks], [rows, -(-blocks * bits // 8)]][
        : 2 if symmetric else 3
    ]
    types = (byte, ir.DataType.FLOAT, byte)[: len(shapes)]
    settings = {"bits": bits, "block_size": block, "symmetric": int(symmetric)}
    return node("QuantizedWeight", [], *shapes, dtypes=types, parts=["w"], **settings)


@settings(max_examples=20, deadline=None)
@given(WEIGHTS, BITS, BLOCKS, st.booleans())
def test_what_is_stored_is_read_as_it_was_put(tmp_path_factory, weight, bits, block, symmetric):
    folder = tmp_path_factory.mktemp("stored")
    found = nearest(np.ones(weight.shape[1], np.float32), weight, bits, block, symmetric)
    label = quantized_weight(*weight.shape, bits, block, symmetric)
    with Stored(folder, ["w", *(f"w{suffix}" for suffix in (".packed", ".scales", ".zeros"))]) as stored:
        stored.put_codes("w", label, *found)
        stored.put("w", weight)
    tensors, data = read_header(folder / FILE), (folder / FILE).read_bytes()
    assert label.attributes["stored"].value == "w"
    assert [*tensors] == ["w.packed", "w.scales", *([] if symmetric else ["w.zeros"]), "w"]
    for name, wanted in zip(tensors, [found[0], found[1], *([] if symmetric else [found[2]]), weight]):
        tensor = tensors[name]
        raw = np.frombuffer(
            data[tensor.offset : tensor.offset + tensor.size], np.uint8 if tensor.dtype == "U8" else np.float32
        )
        if name in ("w.packed", "w.zeros"):
            raw = unpack(raw.reshape(len(weight), -1), bits, wanted.shape[1])
        np.testing.assert_array_equal(raw.reshape(wanted.shape), wanted)
