"""Constants and sizes that rules share."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import constant, emit, integers


def floats(node: ir.Node, values, like: ir.Value) -> ir.Value:
    """A constant of `like`'s type."""
    return constant(node.graph, np.array(values, like.dtype.numpy()))


def cast(node: ir.Node, value: ir.Value | None, dtype: ir.DataType) -> ir.Value | None:
    if value is None or value.dtype == dtype:
        return value
    return emit(node, "Cast", [value], value.shape, dtype=dtype, to=int(dtype))


def last_axis(node: ir.Node, value: ir.Value, start: int, end: int, step: int = 1) -> ir.Value:
    """A slice along the last axis."""
    bounds = [integers(node.graph, [i]) for i in (start, end, -1, *([step] if step > 1 else []))]
    return emit(node, "Slice", [value, *bounds], [*list(value.shape)[:-1], (end - start) // step])


def size(node: ir.Node, value: ir.Value, axis: int) -> ir.Value:
    """The dimension as an int64 scalar, read from a graph input that has it where there is one: layers then share it."""
    dim = value.shape[axis]
    if isinstance(dim, int):
        return constant(node.graph, np.array(dim, np.int64))
    for source in node.graph.inputs[:3]:
        if dim in source.shape:
            value, axis = source, list(source.shape).index(dim)
            break
    shape = emit(node, "Shape", [value], [value.shape.rank()], dtype=ir.DataType.INT64)
    return emit(node, "Gather", [shape, constant(node.graph, np.array(axis, np.int64))], [], axis=0)
