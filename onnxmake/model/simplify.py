"""Peephole rules that hold on every device."""

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, TopologicalSortPass

from onnxmake.model.graph import nodes, produced_by, prune, replace


def _reshape_of_reshape(node: ir.Node) -> bool:
    """Reshape(Reshape(x)) of x's own shape is x."""
    inner = produced_by(node.inputs[0], "Reshape")
    if inner is None or inner.inputs[0].shape is None or inner.inputs[0].shape != node.outputs[0].shape:
        return False
    replace(node, [inner.inputs[0]])
    return True


def simplify(model: ir.Model) -> int:
    """Apply every rule everywhere and merge equal nodes. Returns the number of places changed."""
    prune(model.graph)
    count = sum(_reshape_of_reshape(node) for node in nodes(model.graph, "Reshape"))
    TopologicalSortPass()(model)
    CommonSubexpressionEliminationPass()(model)
    prune(model.graph)
    return count
