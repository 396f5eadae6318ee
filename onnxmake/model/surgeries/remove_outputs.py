"""Remove the outputs that values names, and all that only they need."""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.errors import TargetError
from onnxmake.model.border import named, need_no_decoder

TAKES = ("values",)
PACKAGED = True


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Value]:
    need_no_decoder(graph, "remove_outputs")
    found = named(graph.outputs, o.values, "output")
    if len(found) == len(graph.outputs):
        raise TargetError("remove_outputs would leave no output.", "It names all of them.", "Leave one.")
    return found


def after(value: ir.Value, o: Any) -> None:
    graph = value.producer().graph
    graph.outputs.remove(value)
    value.name = f"{value.name}.inner"
