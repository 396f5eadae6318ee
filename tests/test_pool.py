"""From states of tokens to one vector of each text, against the same in numpy."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import FLOAT, load_pass, model, node, value
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmake.errors import PassError
from onnxmake.model import canonical
from onnxmake.model.pooling import POOLS

POOL, INT = load_pass("pool"), ir.DataType.INT64


def encoder(width: int, dtype: ir.DataType = FLOAT, output: str = "last_hidden_state", mask: str = "attention_mask"):
    """x -> -x as states of tokens, and twice that as pooler_output."""
    shape, types = ["batch", "sequence", width], (dtype,)
    x, seen = value("x", shape, dtype), value(mask, ["batch", "sequence"], INT)
    states = node("Neg", [x], shape, domain="", dtypes=types)
    double = node("Add", [states.outputs[0]] * 2, shape, domain="", dtypes=types)
    states.outputs[0].name, double.outputs[0].name = output, "pooler_output"
    return model([x, seen], [states.outputs[0], double.outputs[0]], states, double)


@functools.cache
def session(mode: str, normalize: bool, width: int, dtype: ir.DataType = FLOAT) -> ort.InferenceSession:
    built = encoder(width, dtype)
    assert POOL.rewrite(built, POOL.Options(mode, normalize)) == 1
    with tempfile.TemporaryDirectory() as folder:
        canonical.save(built, Path(folder, "model.onnx"))
        return ort.InferenceSession(str(Path(folder, "model.onnx")), providers=["CPUExecutionProvider"])


def pooled(states: np.ndarray, mask: np.ndarray, mode: str, normalize: bool) -> np.ndarray:
    """Text by text, of the tokens that are no padding; cls is the first that there is, padding or not."""
    of = {"mean": lambda t: t.mean(0), "max": lambda t: t.max(0), "last": lambda t: t[-1]}
    rows = [s[0] if mode == "cls" else of[mode](s[m.astype(bool)]) for s, m in zip(states.astype(np.float64), mask)]
    out = np.stack(rows)
    return out / np.linalg.norm(out, axis=1, keepdims=True) if normalize else out


def ran(states: np.ndarray, mask: np.ndarray, mode: str, normalize: bool) -> dict[str, np.ndarray]:
    dtype = ir.DataType.from_numpy(states.dtype)
    runner = session(mode, normalize, states.shape[2], dtype)
    names = [output.name for output in runner.get_outputs()]
    return dict(zip(names, runner.run(names, {"x": -states, "attention_mask": mask})))


def masked(lengths, sequence: int, side: str) -> np.ndarray:
    places = np.arange(sequence)[None]
    counts = np.array(lengths)[:, None]
    return (places < counts if side == "right" else places >= sequence - counts).astype(np.int64)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("mode", POOLS)
@pytest.mark.parametrize(("side", "lengths"), [("right", (5, 5, 5)), ("right", (5, 3, 1)), ("left", (1, 4, 5))])
def test_each_text_becomes_one_vector_in_which_padding_has_no_say(mode, normalize, side, lengths):
    states = (
        np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32) - 2
    )  # most below zero: padding's 0 is high
    mask = masked(lengths, 5, side)
    out = ran(states, mask, mode, normalize)
    assert list(out) == ["sentence_embedding", "last_hidden_state"]
    np.testing.assert_array_equal(out["last_hidden_state"], states)
    np.testing.assert_allclose(out["sentence_embedding"], pooled(states, mask, mode, normalize), atol=1e-6)
    if mode != "cls":
        spoilt = np.where(mask[:, :, None] == 1, states, np.float32(99))
        again = ran(spoilt, mask, mode, normalize)["sentence_embedding"]
        np.testing.assert_array_equal(again, out["sentence_embedding"])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_shape_and_padding_pools_as_in_numpy(data):
    mode, normalize = data.draw(st.sampled_from([*POOLS])), data.draw(st.booleans())
    batch, sequence, width = (data.draw(st.integers(1, most)) for most in (5, 9, 4))
    lengths = data.draw(st.lists(st.integers(1, sequence), min_size=batch, max_size=batch))
    mask = masked(lengths, sequence, data.draw(st.sampled_from(["left", "right"])))
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    states = (random.standard_normal((batch, sequence, width)) * data.draw(st.sampled_from([0.1, 1, 50]))).astype(
        np.float32
    )
    actual, expected = ran(states, mask, mode, normalize)["sentence_embedding"], pooled(states, mask, mode, normalize)
    assert actual.shape == (batch, width)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(states).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("mode", POOLS)
def test_an_empty_text_and_one_of_zeros_give_numbers(mode, dtype):
    states = np.ones((2, 3, 4), dtype)
    states[1] = 0
    out = ran(states, np.array([[0, 0, 0], [1, 1, 1]]), mode, True)["sentence_embedding"]
    assert out.dtype == dtype and np.isfinite(out).all() and not out[1].any()


@pytest.mark.parametrize("mode", POOLS)
def test_float16_states_give_nearly_the_same_vector(mode):
    states = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float16)
    mask = masked((5, 3, 1), 5, "right")
    out = ran(states, mask, mode, True)["sentence_embedding"]
    assert out.dtype == np.float16
    np.testing.assert_allclose(out, pooled(states, mask, mode, True), atol=2e-3)


@pytest.mark.parametrize("order", [("cast", "pool"), ("pool", "cast")])
def test_a_pool_follows_a_cast_or_goes_before_it(order):
    built = encoder(8)
    states = next(iter(built.graph))
    semantic = node("RMSNorm", [states.inputs[0]] * 2, states.inputs[0].shape)  # without one a cast comes too late
    built.graph.insert_before(states, semantic)
    states.replace_input_with(0, semantic.outputs[0])
    for name in order:
        options = {"cast": ["fp16"], "pool": []}[name]
        assert load_pass(name).rewrite(built, load_pass(name).Options(*options)) > 0
    floats = {v.name: v.dtype for v in (*built.graph.inputs, *built.graph.outputs) if v.dtype != INT}
    assert floats == dict.fromkeys(["x", "sentence_embedding", "last_hidden_state"], ir.DataType.FLOAT16)
    constants = [c.const_value.numpy() for c in built.graph.initializers.values() if c.dtype != INT]
    assert constants and all(c.dtype == np.float16 and np.isfinite(c) and c for c in constants)


@pytest.mark.parametrize(("output", "mask"), [("logits", "attention_mask"), ("last_hidden_state", "pixel_mask")])
def test_what_has_no_states_of_tokens_is_refused(output, mask):
    built = encoder(8, output=output, mask=mask)
    with pytest.raises(PassError, match='(?s)no states of tokens to pool.*part = "base" under export'):
        POOL.rewrite(built, POOL.Options())
    assert [v.name for v in built.graph.outputs] == [output, "pooler_output"]
