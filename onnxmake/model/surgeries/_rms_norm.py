"""ONNX Runtime's RMS norms, alone and behind a sum, taken apart."""

from collections.abc import Callable

import onnx_ir as ir

from onnxmake.model.graph import attribute, emit, nodes, replace

Normed = Callable[[ir.Node, ir.Value], ir.Value]


def norms(graph: ir.Graph) -> list[ir.Node]:
    """Those over the last axis whose mean or deviation nothing reads."""
    found = nodes(graph, "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
    last = [n for n in found if attribute(n, "axis", -1) in (-1, n.inputs[0].shape.rank() - 1)]
    return [n for n in last if not any(v.uses() or v.is_graph_output() for v in n.outputs[1:3])]


def replace_norm(node: ir.Node, normed: Normed) -> None:
    """Let `normed` of x, or of the sum that a skip norm makes, times the weight take the norm's place."""
    skips = node.op_type.startswith("Skip")
    x, scale = node.inputs[0], node.inputs[2 if skips else 1]
    for term in [node.inputs[1], *node.inputs[3:4]] if skips else []:
        if term is not None:
            x = emit(node, "Add", [x, term], x.shape)
    out = emit(node, "Mul", [normed(node, x), scale], x.shape)
    total = node.outputs[3] if skips and len(node.outputs) > 3 else None
    if total is not None and (total.uses() or total.is_graph_output()):
        if total.is_graph_output():
            x.name = total.name
        ir.convenience.replace_all_uses_with(total, x, replace_graph_outputs=True)
    replace(node, [out])
