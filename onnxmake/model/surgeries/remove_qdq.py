"""QuantizeLinear and DequantizeLinear behind it -> what was quantised: activations stay float, weights as they are.

What it computes is nearer to the unquantised model, and no longer what was calibrated.
"""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.model.graph import nodes, produced_by, replace


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Node]:
    return [n for n in nodes(graph, "DequantizeLinear") if _undone(n) is not None]


def _undone(node: ir.Node) -> ir.Value | None:
    """The value that the pair rounds, if it is of the same type and no input, whose name an output could not take."""
    quantize = produced_by(node.inputs[0], "QuantizeLinear")
    value = None if quantize is None else quantize.inputs[0]
    if value is None or value.dtype != node.outputs[0].dtype:
        return None
    return (
        None if node.outputs[0].is_graph_output() and (value.producer() is None or value.is_graph_output()) else value
    )


def after(node: ir.Node, o: Any) -> None:
    replace(node, [_undone(node)])
