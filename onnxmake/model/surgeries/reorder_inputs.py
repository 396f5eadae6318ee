"""Put the inputs into another order: values = all their names."""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.errors import TargetError
from onnxmake.model.border import named

TAKES = ("values",)
PACKAGED = True


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Graph]:
    known = [value.name for value in graph.inputs]
    named(graph.inputs, o.values, "input")
    if sorted(o.values) != sorted(known):
        raise TargetError(
            "reorder_inputs does not name each input once.",
            f"The inputs are {', '.join(known)}.",
            "Write all of them under values.",
        )
    return [graph] if list(o.values) != known else []


def after(graph: ir.Graph, o: Any) -> None:
    graph.inputs[:] = named(graph.inputs, o.values, "input")
