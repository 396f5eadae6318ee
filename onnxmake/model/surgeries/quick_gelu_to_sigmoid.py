"""ONNX Runtime's QuickGelu(x) -> x Sigmoid(alpha x), for runtimes that have standard operators only."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, constant, emit, nodes, replace


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Node]:
    return nodes(graph, "QuickGelu")


def after(node: ir.Node, o: Any) -> None:
    x, alpha = node.inputs[0], attribute(node, "alpha", 1.702)
    factor = constant(node.graph, np.array(alpha, x.dtype.numpy()))
    scaled = x if alpha == 1 else emit(node, "Mul", [x, factor], x.shape)
    replace(node, [emit(node, "Mul", [x, emit(node, "Sigmoid", [scaled], x.shape)], x.shape)])
