"""Give inputs other names: names = { old = "new" }."""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.model.border import free_name, named, need_no_decoder

TAKES = ("names",)
PACKAGED = True


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Value]:
    need_no_decoder(graph, "rename_inputs")
    found = named(graph.inputs, o.names, "input")
    free_name(graph, o.names)
    return found


def after(value: ir.Value, o: Any) -> None:
    value.name = o.names[value.name]
