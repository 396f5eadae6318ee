"""RMS norms -> LpNormalization of p = 2, times the weight and the root of the width. For accelerators that have the one and not the other.

The norm's epsilon goes: what differs is rows that are about as small as its root.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import constant, emit
from onnxmake.model.surgeries._rms_norm import norms, replace_norm


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Node]:
    return [node for node in norms(graph) if isinstance(node.inputs[0].shape[-1], int)]


def _normed(node: ir.Node, x: ir.Value) -> ir.Value:
    root = constant(node.graph, np.array(math.sqrt(x.shape[-1]), x.dtype.numpy()))
    return emit(node, "Mul", [emit(node, "LpNormalization", [x], x.shape, p=2, axis=-1), root], x.shape)


def after(node: ir.Node, o: Any) -> None:
    replace_norm(node, _normed)
