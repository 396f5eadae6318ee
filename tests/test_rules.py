"""Rules of lowering and simplification on graphs of a few nodes: the same numbers in fewer nodes, or no change."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import FLOAT, bind, model, node, operations, run, value, write_safetensors

from onnxmake.model.graph import nodes
from onnxmake.model.lowering import lower
from onnxmake.model.shapes import same
from onnxmake.model.simplify import simplify

INT, END = ir.DataType.INT64, 2**63 - 1
rng = np.random.default_rng(3)


def constant(name: str, array) -> ir.Value:
    tensor = ir.tensor(np.asarray(array), name=name)
    return ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))


def plain(op: str, inputs, *shapes, **attributes) -> ir.Node:
    return node(op, inputs, *shapes, domain="", **attributes)


def graph(inputs, outputs, *made: ir.Node) -> ir.Model:
    """A model of the nodes, with the constants that they read."""
    built = model(inputs, outputs, *made)
    for v in {v for n in made for v in n.inputs if v is not None and v.const_value is not None}:
        built.graph.register_initializer(v)
    return built


def copied(built: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(built))


def convolution(
    wide: int = 4, kernel: int = 3, silu: bool = False, tail: int | None = None, biased: bool = True, **changed
) -> ir.Model:
    """Depthwise over a state of `wide` columns and x, as Transformers computes it: padded on both sides, then cut."""
    channels, dims = 6, ["batch", 6]
    x, state = value("x", [*dims, "seq"]), value("past.conv", [*dims, wide])
    weights = constant("weights", rng.standard_normal((channels, 1, kernel)).astype(np.float32))
    bias = constant("bias", rng.standard_normal(channels).astype(np.float32) * biased)
    settings = {"group": channels, "pads": [kernel - 1] * 2, "strides": [1], "dilations": [1]} | changed

    def cut(source: ir.Node, start: ir.Value, end: ir.Value, last) -> ir.Node:
        return plain("Slice", [source.outputs[0], start, end, axis], [*dims, last])

    zero, axis, end = constant("zero", [0]), constant("axis", [2]), constant("end", [END])
    joined = plain("Concat", [state, x], [*dims, f"seq + {wide}"], axis=-1)
    kept = cut(joined, constant("tail", [-(tail or wide)]), end, tail or wide)
    size = plain("Shape", [x], [1], dtypes=[INT], start=2, end=3)
    minus = plain("Neg", size.outputs, [1], dtypes=[INT])
    plus = plain("Add", [size.outputs[0], constant("wide", [wide])], [1], dtypes=[INT])
    conv = plain("Conv", [joined.outputs[0], weights, bias], [*dims, f"seq + {wide + kernel - 1}"], **settings)
    first = last = cut(conv, zero, plus.outputs[0], f"seq + {wide}")
    between = []
    if silu:
        wave = plain("Sigmoid", [first.outputs[0]], [*dims, f"seq + {wide}"])
        last = plain("Mul", [first.outputs[0], wave.outputs[0]], [*dims, f"seq + {wide}"])
        between = [wave, last]
    out = cut(last, minus.outputs[0], end, "seq")
    out.outputs[0].name, kept.outputs[0].name = "out", "present.conv"
    made = (joined, kept, size, minus, plus, conv, first, *between, out)
    return graph([x, state], [out.outputs[0], kept.outputs[0]], *made)


@pytest.mark.parametrize("seq", [1, 5])
@pytest.mark.parametrize(("wide", "kernel"), [(4, 4), (3, 4), (4, 2)])
@pytest.mark.parametrize("silu", [True, False])
def test_a_convolution_over_a_state_is_one_op_and_keeps_no_more_than_it_needs(tmp_path, silu, wide, kernel, seq):
    built = convolution(wide, kernel, silu, biased=silu)
    given = {name: rng.standard_normal((2, 6, n)).astype(np.float32) for name, n in (("x", seq), ("past.conv", wide))}
    expected = run(bind(copied(built), empty(tmp_path), tmp_path / "plain", "portable"), **given)
    file = bind(built, empty(tmp_path), tmp_path / "cpu")
    (op,) = ir.load(file).graph
    assert op.op_type == "CausalConvWithState" and (op.inputs[2] is not None) is silu
    assert list(op.inputs[3].shape)[1:] == list(op.outputs[1].shape)[1:] == [6, kernel - 1]
    given["past.conv"] = given["past.conv"][:, :, wide - kernel + 1 :]
    out, kept = run(file, **given)
    np.testing.assert_allclose(out, expected[0], atol=1e-6)
    np.testing.assert_array_equal(kept, expected[1][:, :, wide - kernel + 1 :])


@pytest.mark.parametrize(
    "changed",
    [
        {"dilations": [2]},
        {"pads": [2, 0]},
        {"strides": [2]},
        {"group": 2},
        {"wide": 1},  # zeros stand before it
        {"tail": 2},  # another state is kept
        {"dtype": ir.DataType.BFLOAT16},  # CUDA has no kernel
    ],
)
def test_another_convolution_stays(changed):
    dtype, built = changed.pop("dtype", FLOAT), convolution(**changed)
    for v in nodes(built.graph, "Conv")[0].inputs:
        v.type = ir.TensorType(dtype)
    lower(built.graph, "cpu")
    assert "Conv" in operations(built) and "CausalConvWithState" not in operations(built)


@pytest.mark.parametrize("device", ["portable", "directml"])
def test_devices_without_the_op_keep_the_convolution(device):
    built = convolution()
    lower(built.graph, device)
    assert "Conv" in operations(built)


def empty(folder):
    return write_safetensors(folder / "none.safetensors", {})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("beta", [True, False])
def test_linear_attention_by_its_op_is_the_scan(tmp_path, beta, by_channel, dtype):
    (heads, keys, width), kind = (3, 8, 4), ir.DataType.from_numpy(np.dtype(dtype))
    tail = {"q": [keys], "k": [keys], "v": [width], "decay": [keys] if by_channel else [], "beta": []}
    names = [name for name in tail if name != "beta" or beta]
    inputs = [value(name, ["batch", "seq", heads, *tail[name]], kind) for name in names]
    state = value("state", ["batch", heads, keys, width], kind)
    inputs.insert(4, state)
    shapes = [["batch", "seq", heads, width], state.shape]
    made = node("LinearAttention", inputs, *shapes, dtypes=[kind] * 2, scale=0.3)
    made.outputs[0].name, made.outputs[1].name = "out", "last"
    built = model(inputs, made.outputs, made)
    sizes = {"batch": 2, "seq": 7}
    given = {v.name: rng.standard_normal([sizes.get(getattr(d, "value", d), d) for d in v.shape]) / 2 for v in inputs}
    given = {name: array.astype(dtype) for name, array in (given | {"decay": -abs(given["decay"])}).items()}
    expected = run(bind(copied(built), empty(tmp_path), tmp_path / "scan", "directml"), **given)
    file = bind(built, empty(tmp_path), tmp_path / "op", "cuda")
    found = operations(ir.load(file))
    assert "LinearAttention" in found and "Scan" not in found
    for actual, wanted in zip(run(file, **given), expected):
        np.testing.assert_allclose(actual, wanted, atol=1e-5 if dtype == "float32" else 2e-3)


@pytest.mark.parametrize("shape", [["batch", "seq", 8], ["batch", None, 8]])
@pytest.mark.parametrize(
    ("first", "second"), [("Reshape", "Reshape"), ("Squeeze", "Unsqueeze"), ("Reshape", "Squeeze")]
)
def test_what_has_its_shape_again_is_itself(shape, first, second):
    x, more = value("x", shape), constant("more", [0])
    inner = plain(first, [x, more], ["rows", 8])
    outer = plain(second, [inner.outputs[0], more], shape)
    end = plain("Neg", outer.outputs, shape)
    built = graph([x], end.outputs, inner, outer, end)
    assert simplify(built) == same(x.shape, x.shape) == (None not in shape)
    assert ("Neg" in operations(built)) and (len(built.graph) == 1) is (None not in shape)


def normed(axis: int) -> ir.Model:
    """Two streams, their sum, and a norm without parameters of it."""
    x, y = (value(name, ["batch", "seq", 8]) for name in "xy")
    ones = constant("ones", np.ones(8, np.float32))
    total = plain("Add", [x, y], x.shape)
    norm = plain("LayerNormalization", [total.outputs[0], ones], x.shape, axis=axis)
    return graph([x, y], [norm.outputs[0], total.outputs[0]], total, norm)


@pytest.mark.parametrize(("axis", "fused"), [(-1, True), (2, True), (1, False)])
def test_a_norm_without_a_module_takes_the_sum_in_front_of_it_along(tmp_path, axis, fused):
    built = normed(axis)
    given = {name: rng.standard_normal((2, 3, 8)).astype(np.float32) for name in "xy"}
    if not fused:
        lower(built.graph, "cpu")
        assert operations(built) == ["Add", "LayerNormalization"]
        return
    expected = run(bind(copied(built), empty(tmp_path), tmp_path / "plain", "portable"), **given)
    file = bind(built, empty(tmp_path), tmp_path / "cpu")
    assert operations(ir.load(file)) == ["SkipLayerNormalization"]
    for actual, wanted in zip(run(file, **given), expected):
        np.testing.assert_allclose(actual, wanted, atol=1e-6)
