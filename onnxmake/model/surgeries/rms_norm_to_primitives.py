"""RMS norms -> x / Sqrt(ReduceMean(x x) + epsilon), times the weight: standard operators only."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, constant, emit, integers
from onnxmake.model.surgeries._rms_norm import norms, replace_norm


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Node]:
    return norms(graph)


def _normed(node: ir.Node, x: ir.Value) -> ir.Value:
    """In float32, as the operator does it."""
    kept, wide = x, ir.DataType.FLOAT
    if x.dtype != wide:
        x = emit(node, "Cast", [x], x.shape, dtype=wide, to=int(wide))
    shape = [*list(x.shape)[:-1], 1]
    mean = emit(node, "ReduceMean", [emit(node, "Mul", [x, x], x.shape), integers(node.graph, [-1])], shape)
    epsilon = constant(node.graph, np.array(attribute(node, "epsilon", 1e-5), np.float32))
    out = emit(node, "Div", [x, emit(node, "Sqrt", [emit(node, "Add", [mean, epsilon], shape)], shape)], x.shape)
    return out if kept.dtype == wide else emit(node, "Cast", [out], x.shape, dtype=kept.dtype, to=int(kept.dtype))


def after(node: ir.Node, o: Any) -> None:
    replace_norm(node, _normed)
