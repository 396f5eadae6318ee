"""Peephole rules that hold on every device."""

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    TopologicalSortPass,
)

from onnxmake.model.graph import attribute, attributes, emit, nodes, produced_by, prune, replace
from onnxmake.model.shapes import same

RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")


def _reshape_of_reshape(node: ir.Node) -> bool:
    """Of two nodes that keep the order of elements, and give x's own shape, is left x."""
    inner = next((n for op in RESHAPES if (n := produced_by(node.inputs[0], op)) is not None), None)
    if inner is None or not same(inner.inputs[0].shape, node.outputs[0].shape):
        return False
    replace(node, [inner.inputs[0]])
    return True


def _norm_between_transposes(node: ir.Node) -> bool:
    """A norm over the last axis does not mind the order of the others: Transpose(norm(Transpose(x))) of x's own shape is norm(x)."""
    norm = produced_by(node.inputs[0], "SimplifiedLayerNormalization") or produced_by(
        node.inputs[0], "LayerNormalization"
    )
    inner = None if norm is None or len(norm.outputs[0].uses()) != 1 else produced_by(norm.inputs[0], "Transpose")
    perms = [list(attribute(n, "perm")) for n in (node, inner) if n is not None]
    if perms != [[0, 2, 1, 3]] * 2 or attribute(norm, "axis", -1) not in (-1, 3):
        return False
    x, settings = inner.inputs[0], attributes(norm)
    replace(node, [emit(norm, norm.op_type, [x, *norm.inputs[1:]], x.shape, norm.domain, **settings)])
    return True


RULES = {**dict.fromkeys(RESHAPES, _reshape_of_reshape), "Transpose": _norm_between_transposes}


def simplify(model: ir.Model) -> int:
    """Apply every rule everywhere and merge equal nodes. Returns the number of places changed."""
    prune(model.graph)
    count = sum(RULES[node.op_type](node) for node in nodes(model.graph, *RULES))
    TopologicalSortPass()(model)
    DeduplicateInitializersPass()(model)
    CommonSubexpressionEliminationPass()(model)
    prune(model.graph)
    return count
