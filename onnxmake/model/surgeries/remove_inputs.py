"""Remove the inputs that values names. What read one reads zeros of its shape instead, as of an input of other inputs' sizes.

So a text encoder loses token_type_ids, which are zeros for single texts.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.errors import TargetError
from onnxmake.model.border import named, need_no_decoder
from onnxmake.model.graph import emit, integers

TAKES = ("values",)
PACKAGED = True


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Value]:
    need_no_decoder(graph, "remove_inputs")
    found = named(graph.inputs, o.values, "input")
    for value in found:
        for dim in value.shape if value.uses() else ():
            if not isinstance(dim, int) and _holder(graph, dim, o.values) is None:
                raise TargetError(
                    f"remove_inputs would lose the size {dim} of {value.name}.",
                    "No other input has it, and zeros of that size could not be made.",
                    "Leave the input, or fix its shape first.",
                )
    return found


def _holder(graph: ir.Graph, dim: ir.SymbolicDim, removed: Iterable[str]) -> tuple[ir.Value, int] | None:
    """An input that stays and has the size, and on which axis."""
    stay = (v for v in graph.inputs if v.name not in removed)
    return next(((v, axis) for v in stay for axis, d in enumerate(v.shape) if d == dim), None)


def after(value: ir.Value, o: Any) -> None:
    graph, first = value.graph, next(iter(value.graph))
    if value.uses():
        sizes = []
        for dim in value.shape:
            holder = None if isinstance(dim, int) else _holder(graph, dim, o.values)
            if holder is None:
                sizes.append(integers(graph, [dim]))
            else:
                given, axis = holder
                sizes.append(emit(first, "Shape", [given], [1], dtype=ir.DataType.INT64, start=axis, end=axis + 1))
        shape = emit(first, "Concat", sizes, [len(sizes)], axis=0) if sizes else integers(graph, [])
        zero = ir.tensor(np.zeros(1, value.dtype.numpy()), dtype=value.dtype)
        zeros = emit(first, "ConstantOfShape", [shape], value.shape, dtype=value.dtype, value=zero)
        ir.convenience.replace_all_uses_with(value, zeros, replace_graph_outputs=True)
    graph.inputs.remove(value)
