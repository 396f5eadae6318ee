"""Gemm of whole factors -> MatMul and Add, which quantisers and runtimes know better; a transposed weight is transposed in front."""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.model.graph import attribute, emit, nodes, replace


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Node]:
    return [n for n in nodes(graph, "Gemm") if attribute(n, "alpha", 1.0) == attribute(n, "beta", 1.0) == 1.0]


def after(node: ir.Node, o: Any) -> None:
    shape = node.outputs[0].shape
    factors = []
    for value, turned in zip(node.inputs[:2], ("transA", "transB")):
        if attribute(node, turned, 0):
            value = emit(node, "Transpose", [value], [value.shape[1], value.shape[0]], perm=[1, 0])
        factors.append(value)
    out = emit(node, "MatMul", factors, shape)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    replace(node, [out if bias is None else emit(node, "Add", [out, bias], shape)])
