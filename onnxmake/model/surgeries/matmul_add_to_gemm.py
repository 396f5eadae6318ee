"""Add(MatMul(x, weight [K, N]), bias [N]) -> Gemm, for x of two axes, or of more whose sizes are known: between two reshapes."""

import math
from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.model.graph import emit, integers, nodes, produced_by, replace


def _bias(add: ir.Node, product: ir.Value) -> ir.Value | None:
    other = [v for v in add.inputs if v is not product]
    return other[0] if len(other) == 1 and other[0].shape is not None and other[0].shape.rank() == 1 else None


def _fits(add: ir.Node, product: ir.Node) -> bool:
    x, weight = product.inputs
    if x.shape is None or weight.shape is None or weight.shape.rank() != 2 or x.shape.rank() < 2:
        return False
    bias = _bias(add, product.outputs[0])
    alone = len(product.outputs[0].uses()) == 1 and not product.outputs[0].is_graph_output()
    known = x.shape.rank() == 2 or all(isinstance(d, int) for d in x.shape)
    return alone and known and bias is not None and bias.shape[0] == weight.shape[1]


def before(graph: ir.Graph, o: Any) -> Iterable[tuple[ir.Node, ir.Node]]:
    pairs = ((add, produced_by(v, "MatMul")) for add in nodes(graph, "Add") for v in add.inputs)
    return [(add, product) for add, product in pairs if product is not None and _fits(add, product)]


def after(place: tuple[ir.Node, ir.Node], o: Any) -> None:
    add, product = place
    (x, weight), shape = product.inputs, add.outputs[0].shape
    bias, wide = _bias(add, product.outputs[0]), x.shape.rank() > 2
    if wide:
        rows = [math.prod(x.shape[:-1]), x.shape[-1]]
        x = emit(add, "Reshape", [x, integers(add.graph, rows)], rows)
    out = emit(add, "Gemm", [x, weight, bias], [x.shape[0], weight.shape[1]])
    replace(add, [emit(add, "Reshape", [out, integers(add.graph, list(shape))], shape) if wide else out])
