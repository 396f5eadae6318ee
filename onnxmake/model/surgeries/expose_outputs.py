"""Let values inside the graph be outputs, too: values = their names, or those of the nodes that make them, as the packaged model has them."""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.errors import TargetError
from onnxmake.model.nearest import nearest

TAKES = ("values",)
PACKAGED = True


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Value]:
    inner = {value.name: value for node in graph for value in node.outputs if value.name}
    known = {node.name: node.outputs[0] for node in graph} | inner
    for name in o.values:
        if name not in known or known[name].dtype is None:
            raise TargetError(
                f"No value or node is named {name!r}, or its type is unknown.",
                "The packaged model has none.",
                nearest(name, known),
            )
    return [value for value in dict.fromkeys(known[name] for name in o.values) if not value.is_graph_output()]


def after(value: ir.Value, o: Any) -> None:
    value.producer().graph.outputs.append(value)
