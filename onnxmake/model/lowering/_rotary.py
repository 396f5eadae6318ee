"""Rotary tables and rotations in standard ops."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, constant, emit, integers, replace, rotary_width
from onnxmake.model.lowering._values import last_axis


def is_far(table: ir.Node) -> ir.Value:
    """Bool scalar: whether a position has reached the RotaryTable's threshold."""
    last = emit(table, "ReduceMax", [table.inputs[0]], [], keepdims=0)
    limit = constant(table.graph, np.array(attribute(table, "threshold"), np.int64))
    return emit(table, "GreaterOrEqual", [last, limit], [], dtype=ir.DataType.BOOL)


def rotary_table(node: ir.Node) -> None:
    """Computed in float32 whatever the model's type: a float16 counts exactly to 2048 only."""
    positions, out, float32 = node.inputs[0], node.outputs[0], ir.DataType.FLOAT
    half = [*list(out.shape)[:2], len(attribute(node, "frequencies"))]

    def angles(values) -> ir.Value:
        return constant(node.graph, np.array(values, np.float32))

    frequencies = angles(attribute(node, "frequencies"))
    if "threshold" in node.attributes:
        frequencies = emit(
            node,
            "Where",
            [is_far(node), angles(attribute(node, "far_frequencies")), frequencies],
            frequencies.shape,
            dtype=float32,
        )
    column = emit(
        node,
        "Cast",
        [emit(node, "Unsqueeze", [positions, integers(node.graph, [-1])], [*half[:2], 1])],
        [*half[:2], 1],
        dtype=float32,
        to=int(float32),
    )
    angle = _laid_out(node, emit(node, "Mul", [column, frequencies], half), attribute(node, "layout"))
    replace(node, waves(node, angle, out.dtype))


def waves(node: ir.Node, angle: ir.Value, dtype: ir.DataType) -> list[ir.Value]:
    """cos and sin of a float32 angle, times the table's scale, in `dtype`."""
    both, scale = [emit(node, function, [angle], angle.shape) for function in ("Cos", "Sin")], attribute(node, "scale")
    if scale != 1:
        both = [
            emit(node, "Mul", [wave, constant(node.graph, np.array(scale, np.float32))], angle.shape) for wave in both
        ]
    return (
        both
        if dtype == angle.dtype
        else [emit(node, "Cast", [wave], angle.shape, dtype=dtype, to=int(dtype)) for wave in both]
    )


def _laid_out(node: ir.Node, value: ir.Value, layout: str) -> ir.Value:
    """[B, S, R/2] -> [B, S, R]: each value twice, side by side or in two halves; or once as it is."""
    (batch, seq, half), shape = value.shape, [*list(value.shape)[:2], 2 * value.shape[2]]
    if layout == "once":
        return value
    if layout == "halves":
        return emit(node, "Concat", [value, value], shape, axis=-1)
    single = emit(node, "Unsqueeze", [value, integers(node.graph, [-1])], [batch, seq, half, 1])
    pairs = emit(node, "Concat", [single, single], [batch, seq, half, 2], axis=-1)
    return emit(node, "Reshape", [pairs, integers(node.graph, [0, 0, 2 * half])], shape)


def rotary_embedding(node: ir.Node) -> None:
    (x, cos, sin), interleaved = node.inputs, attribute(node, "interleaved")
    shape, width, layout = list(x.shape), rotary_width(node), attribute(node, "layout")
    if (wanted := "neighbours" if interleaved else "halves") != layout:
        once = {"once": (0, width // 2), "halves": (0, width // 2), "neighbours": (0, width, 2)}[layout]
        narrow = [t if layout == "once" else last_axis(node, t, *once) for t in (cos, sin)]
        cos, sin = (_laid_out(node, t, wanted) for t in narrow)
    cos, sin = (
        emit(node, "Unsqueeze", [t, integers(node.graph, [1])], [t.shape[0], 1, *list(t.shape)[1:]]) for t in (cos, sin)
    )
    turned = x if width == shape[3] else last_axis(node, x, 0, width)
    whole, half, axis, source = turned.shape, [*shape[:3], width // 2], -1, turned
    if interleaved:
        half, axis = [*half, 1], -1
        source = emit(node, "Reshape", [turned, integers(node.graph, [0, 0, 0, -1, 2])], [*shape[:3], width // 2, 2])
    count = 1 if interleaved else width // 2
    first, second = last_axis(node, source, 0, count), last_axis(node, source, count, 2 * count)
    swapped = emit(node, "Concat", [emit(node, "Neg", [second], half), first], source.shape, axis=axis)
    if interleaved:
        swapped = emit(node, "Reshape", [swapped, integers(node.graph, [0, 0, 0, width])], whole)
    products = [emit(node, "Mul", [a, b], whole) for a, b in ((turned, cos), (swapped, sin))]
    out = emit(node, "Add", products, whole)
    if width < shape[3]:
        out = emit(node, "Concat", [out, last_axis(node, x, width, shape[3])], shape, axis=-1)
    replace(node, [out])
