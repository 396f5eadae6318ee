"""int8 weights with a scale for each channel, and activations quantised as the model runs, against the same in numpy."""

import functools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import bind, load_pass, model, node, operations, run, value, weight, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxmake.errors import CheckpointError, PassError, UnsupportedError
from onnxmake.model import canonical, reader
from onnxmake.model.channels import LARGEST, rounded

DYNAMIC, INT64 = load_pass("quantize_dynamic"), ir.DataType.INT64
WORDS, WIDTH, INNER = 2048, 32, 40
SHAPES = {
    "embed": (WORDS, WIDTH),
    "first": (INNER, WIDTH),
    "bias": (INNER,),
    "second": (WIDTH, INNER),
    "head": (WORDS, WIDTH),
}
ALL = 4  # products and look-ups of text_model


def text_model(tied: bool = False, flat: bool = False) -> ir.Model:
    """input_ids -> embedding -> a product with a bias, one without -> scores of words; `flat`: of one text, not a batch."""
    lead = ["sequence"] if flat else ["batch", "sequence"]
    ids = value("input_ids", lead, INT64)
    weights = {name: weight(name, *shape) for name, shape in SHAPES.items() if name != "head" or not tied}
    w = {name: made.outputs[0] for name, made in weights.items()}
    looked = node("Gather", [w["embed"], ids], [*lead, WIDTH], domain="")
    first = node("Linear", [looked.outputs[0], w["first"], w["bias"]], [*lead, INNER])
    second = node("Linear", [first.outputs[0], w["second"]], [*lead, WIDTH])
    last = node("Linear", [second.outputs[0], w["embed" if tied else "head"]], [*lead, WORDS])
    last.outputs[0].name = "logits"
    return model([ids], [last.outputs[0]], *weights.values(), looked, first, second, last)


@pytest.fixture
def stored(tmp_path):
    """A checkpoint of text_model and its arrays; some rows and columns are zero."""
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in SHAPES.items()}
    made["first"][3], made["embed"][7], made["second"][:, 5] = 0, 0, 0
    return write_safetensors(tmp_path / "m.safetensors", made), made


def quantised(built: ir.Model, **options) -> ir.Model:
    assert DYNAMIC.rewrite(built, DYNAMIC.Options("cpu", **options)) > 0
    canonical.canonicalize(built)
    return built


def stands_for(w: np.ndarray, bits: int = 8) -> np.ndarray:
    codes, scales = rounded(w, bits)
    return codes * scales[:, None]


def activations(x: np.ndarray, shared: str) -> np.ndarray:
    """What the codes of x stand for: around 128 with a scale for each token, or as ONNX defines DynamicQuantizeLinear."""
    if shared == "token":
        peak = np.abs(x).max(-1, keepdims=True) * np.float32(1 / 127)
        scale = np.maximum(peak, np.finfo(np.float32).tiny)
        return np.rint(x / scale) * scale
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = np.float32((high - low) / 255)
    zero = np.rint(np.clip(-low / scale, 0, 255))
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def expected(w: dict[str, np.ndarray], ids: np.ndarray, tied: bool, bits: int, shared: str) -> np.ndarray:
    of = functools.partial(activations, shared=shared)
    x = stands_for(w["embed"], bits)[ids]
    x = of(x) @ stands_for(w["first"], bits).T + w["bias"]
    x = of(x) @ stands_for(w["second"], bits).T
    return of(x) @ stands_for(w["embed" if tied else "head"], bits).T


@functools.cache
def quantize_linear() -> ort.InferenceSession:
    """ONNX Runtime's QuantizeLinear, to int8 with a scale for each row."""
    x, scale = value("x", ["n", "k"]), value("scale", ["n"])
    out = node("QuantizeLinear", [x, scale], ["n", "k"], domain="", dtypes=(ir.DataType.INT8,), axis=0, output_dtype=3)
    proto = ir.to_proto(model([x, scale], [out.outputs[0]], out))
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from([7, 8]),
)
def test_codes_are_those_of_quantize_linear_and_no_value_is_off_by_more_than_half_a_step(rows, bits):
    codes, scales = rounded(rows, bits)
    assert codes.dtype == np.int8 and scales.dtype == np.float32 and (scales > 0).all()
    assert np.abs(codes.astype(int)).max() <= LARGEST[bits]
    np.testing.assert_array_equal(rounded(-rows, bits)[0], -codes)
    normal = np.abs(rows).max(1) > 1e-30
    np.testing.assert_array_equal(codes[normal], quantize_linear().run(None, {"x": rows, "scale": scales})[0][normal])
    assert (np.abs(codes.astype(int)).max(1)[normal] == LARGEST[bits]).all()
    assert (np.abs(codes * scales[:, None] - rows) <= scales[:, None] * 0.5001).all()


def test_products_of_two_seven_bit_weights_fit_what_processors_without_vnni_add_them_in():
    assert 2 * 255 * LARGEST[7] < 2**15 <= 2 * 255 * LARGEST[8]


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("shared", ["token", "tensor"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_a_model_computes_what_its_integers_stand_for(stored, tmp_path, flat, tied, shared, bits):
    source, w = stored
    ids = np.array([1, 7, 2047, 7, 30]) if flat else np.array([[1, 7, 2047], [9, 7, 30]])
    file = bind(quantised(text_model(tied, flat), bits=bits, activations=shared), source, tmp_path / "out")
    wanted = expected(w, ids, tied, bits, shared)
    (logits,) = run(file, input_ids=ids)
    np.testing.assert_allclose(logits, wanted, atol=2e-3 * abs(wanted).max())  # a code at .5 may go either way
    exact = w["embed"][ids] @ w["first"].T + w["bias"]
    exact = exact @ w["second"].T @ w["embed" if tied else "head"].T
    assert np.linalg.norm(logits - exact) < 0.04 * np.linalg.norm(exact)


def test_a_word_of_zeros_is_exactly_what_the_biases_make_of_it(stored, tmp_path):
    source, w = stored
    built = text_model()
    graph = built.graph
    first = next(n for n in graph if n.op_type == "Linear")
    graph.outputs[:] = [first.outputs[0]]
    (states,) = run(bind(quantised(built), source, tmp_path / "out"), input_ids=np.array([[7, 1]]))
    np.testing.assert_array_equal(states[0, 0], w["bias"])
    assert states[0, 1, 3] == w["bias"][3]  # and so is a channel of zeros


def test_with_a_scale_for_each_token_no_other_text_has_a_say(stored, tmp_path):
    source, w = stored
    for shared in ("token", "tensor"):
        file = bind(quantised(text_model(), activations=shared), source, tmp_path / shared)
        alone = run(file, input_ids=np.array([[1, 2]]))[0][0]
        together = run(file, input_ids=np.array([[1, 2], [300, 400], [500, 600]]))[0][0]
        assert np.array_equal(alone, together) is (shared == "token")


def test_what_reads_the_same_is_quantised_once(stored, tmp_path):
    x = value("x", ["batch", "sequence", WIDTH])
    one, two = (weight(name, INNER, WIDTH) for name in ("first", "other"))
    products = [node("Linear", [x, w.outputs[0]], ["batch", "sequence", INNER]) for w in (one, two, one)]
    total = node("Sum", [p.outputs[0] for p in products], ["batch", "sequence", INNER], domain="")
    built = quantised(model([x], [total.outputs[0]], one, two, *products, total))
    assert operations(built).count("QuantizeLinear") == 1
    assert operations(built).count("ChannelQuantizedWeight") == 2  # and the weight that two products share
    w = np.random.default_rng(1).standard_normal((2, INNER, WIDTH)).astype(np.float32)
    source = write_safetensors(tmp_path / "two.safetensors", {"first": w[0], "other": w[1]})
    given = np.random.default_rng(2).standard_normal((1, 3, WIDTH)).astype(np.float32)
    wanted = activations(given, "token") @ (2 * stands_for(w[0]) + stands_for(w[1])).T
    (made,) = run(bind(built, source, tmp_path / "out"), x=given)
    np.testing.assert_allclose(made, wanted, atol=1e-4 * abs(wanted).max())


def test_a_tied_table_is_stored_once_in_a_quarter_of_the_bytes(stored, tmp_path):
    file = bind(quantised(text_model(tied=True)), stored[0], tmp_path / "out")
    tensors = ir.load(file).graph.initializers
    assert sorted(name for name in tensors if "embed" in name) == ["embed.int8.channels", "embed.int8.codes"]
    float_size = 4 * sum(np.prod(shape) for name, shape in SHAPES.items() if name != "head")
    assert file.with_name("model.onnx.data").stat().st_size < 0.3 * float_size


def test_a_small_table_is_looked_up_as_it_is():
    ids = value("input_ids", ["batch", "sequence"], INT64)
    table = weight("types", 2, WIDTH)
    looked = node("Gather", [table.outputs[0], ids], ["batch", "sequence", WIDTH], domain="")
    assert DYNAMIC.rewrite(model([ids], [looked.outputs[0]], table, looked), DYNAMIC.Options("cpu")) == 0


def test_a_second_run_changes_nothing():
    built = quantised(text_model())
    assert DYNAMIC.rewrite(built, DYNAMIC.Options("cpu")) == 0


@pytest.mark.parametrize(
    ("given", "count", "left"),
    [
        (dict(embeddings="keep"), ALL - 1, {"Gather"}),
        (dict(keep=("first", "sec*")), ALL - 2, {"Linear"}),
        (dict(keep=("embed",)), ALL - 1, {"Gather"}),
        (dict(keep=("*",)), 0, {"Gather", "Linear"}),
    ],
)
def test_what_a_target_keeps_stays_float(stored, tmp_path, given, count, left):
    built = text_model()
    assert DYNAMIC.rewrite(built, DYNAMIC.Options("cpu", **given)) == count
    reading = {u.op_type for n in built.graph if n.op_type == "Weight" for v in n.outputs for u, _ in v.uses()}
    assert reading & {"Gather", "Linear"} == left
    assert run(bind(built, stored[0], tmp_path / "out"), input_ids=np.array([[3]]))[0].shape == (1, 1, WORDS)


def test_a_pattern_that_names_nothing_is_an_error_that_names_it():
    for wrong in ("frist", "bias"):
        with pytest.raises(PassError, match=rf"(?s)keep = '{wrong}' names no weight.*There are embed, first, head"):
            DYNAMIC.rewrite(text_model(), DYNAMIC.Options("cpu", keep=("second", wrong)))


def test_other_devices_and_types_are_refused():
    with pytest.raises(UnsupportedError, match="(?s)for CPUs, and the target's device is cuda.*quantize_rtn"):
        DYNAMIC.rewrite(text_model(), DYNAMIC.Options("cuda"))
    built, cast = text_model(), load_pass("cast")
    cast.rewrite(built, cast.Options("fp16"))
    with pytest.raises(UnsupportedError, match="(?s)is cast to float16.*Remove cast"):
        DYNAMIC.rewrite(built, DYNAMIC.Options("cpu"))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(stored, tmp_path, poison):
    w = {name: array.copy() for name, array in stored[1].items()}
    w["second"][4, 9] = poison
    source = write_safetensors(tmp_path / "bad.safetensors", w)
    with pytest.raises(CheckpointError, match="Tensor second holds NaN or infinity"):
        bind(quantised(text_model()), source, tmp_path / "out")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_turn_while_they_stream_and_blocks_do_not_show(tmp_path, monkeypatch, dtype):
    """Of two parts, of a part that is stored with rows and columns exchanged, and of a convolution whose channels blocks cut."""
    rng = np.random.default_rng(3)
    w = {"a": rng.standard_normal((30, 24)), "b": rng.standard_normal((11, 24)), "t": rng.standard_normal((24, 17))}
    w = {name: array.astype(dtype) for name, array in (w | {"c": rng.standard_normal((5, 3, 2, 4))}).items()}
    source = write_safetensors(tmp_path / "m.safetensors", w)
    flat = {
        "ab": np.concatenate([w["a"], w["b"]]).astype(np.float32),
        "t": w["t"].T.astype(np.float32),
        "c": w["c"].reshape(5, -1).astype(np.float32),
    }

    def references() -> ir.Model:
        types = (ir.DataType.INT8, ir.DataType.FLOAT)
        of = {"ab": ([24, 41], dict(parts=["a", "b"], turned=1)), "c": ([5, 3, 2, 4], dict(parts=["c"]))}
        of["t"] = ([24, 17], dict(parts=["t"], transposed=1, turned=1))
        made = [
            node("ChannelQuantizedWeight", [], shape, [len(flat[name])], dtypes=types, bits=8, **settings)
            for name, (shape, settings) in of.items()
        ]
        ends = [node("Identity", [v], list(v.shape), domain="", dtypes=(v.dtype,)) for n in made for v in n.outputs]
        return model([], [end.outputs[0] for end in ends], *made, *ends)

    whole = bind(references(), source, tmp_path / "whole")
    for (codes, scales), name in zip(zip(*[iter(run(whole))] * 2), ("ab", "c", "t")):
        wanted, steps = rounded(flat[name], 8)
        np.testing.assert_array_equal(codes, wanted.reshape(codes.shape) if name == "c" else wanted.T)
        np.testing.assert_array_equal(scales, steps)
    monkeypatch.setattr(reader, "BLOCK", 100 * np.dtype(dtype).itemsize)
    parts = bind(references(), source, tmp_path / "parts")
    assert parts.with_name("model.onnx.data").read_bytes() == whole.with_name("model.onnx.data").read_bytes()
