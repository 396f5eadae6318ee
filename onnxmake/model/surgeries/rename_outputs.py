"""Give outputs other names: names = { old = "new" }."""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from onnxmake.model.border import free_name, named, need_no_decoder

TAKES = ("names",)
PACKAGED = True


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Value]:
    need_no_decoder(graph, "rename_outputs")
    found = named(graph.outputs, o.names, "output")
    free_name(graph, o.names)
    return found


def after(value: ir.Value, o: Any) -> None:
    value.name = o.names[value.name]
