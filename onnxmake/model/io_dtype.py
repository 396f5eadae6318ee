"""Other types for inputs and outputs: casts at the border, and none inside that they would only take back."""

from collections.abc import Collection

import onnx_ir as ir

from onnxmake.errors import TargetError
from onnxmake.model.border import matched, need_no_states, need_packaged
from onnxmake.model.casting import TYPES
from onnxmake.model.graph import emit, produced_by

KINDS = {**TYPES, "int32": ir.DataType.INT32, "int64": ir.DataType.INT64}


def _takes_back(first: ir.DataType, between: ir.DataType, last: ir.DataType) -> bool:
    """Whether a cast from `first` to `between` and on to `last` may be left away: whole numbers must survive it, floats be no
    worse for it."""
    floats = first.is_floating_point() and between.is_floating_point()
    return first == last and (floats or (first, between) == (ir.DataType.INT32, ir.DataType.INT64))


def _drop_cast(node: ir.Node, value: ir.Value) -> None:
    """Let what read the cast read `value`; as a graph's output it takes over the name."""
    old = node.outputs[0]
    if old.is_graph_output():
        return
    ir.convenience.replace_all_uses_with(old, value)
    node.graph.remove(node, safe=True)


def _convert_input(graph: ir.Graph, value: ir.Value, new: ir.DataType) -> None:
    """The input becomes a cast of an input of the same name."""
    old, name = value.dtype, value.name
    given = ir.Value(name=name, shape=value.shape, type=ir.TensorType(new))
    graph.inputs[graph.inputs.index(value)] = given
    for cast in [user for user, _ in value.uses() if user.op_type == "Cast" and user.domain == ""]:
        if _takes_back(new, old, cast.outputs[0].dtype):
            _drop_cast(cast, given)
    first = next(iter(graph))
    inner = emit(first, "Cast", [given], value.shape or [], dtype=old, to=int(old))
    inner.shape = value.shape
    value.name = f"{name}.{old.name.lower()}"
    ir.convenience.replace_all_uses_with(value, inner, replace_graph_outputs=True)


def _convert_output(graph: ir.Graph, value: ir.Value, new: ir.DataType) -> None:
    """A cast of the value becomes the output, or what the value is a cast of."""
    old, name, place = value.dtype, value.name, graph.outputs.index(value)
    cast = produced_by(value, "Cast")
    if cast is not None and _takes_back(new, old, cast.inputs[0].dtype) and not _at_border(cast.inputs[0]):
        out = cast.inputs[0]
    else:
        node = ir.node("Cast", [value], attributes={"to": int(new)})
        graph.append(node)
        out = node.outputs[0]
        out.type, out.shape = ir.TensorType(new), value.shape
    value.name, out.name = f"{name}.{old.name.lower()}", name
    graph.outputs[place] = out


def _at_border(value: ir.Value) -> bool:
    """Whether its name is taken: that of an input, of an output or of a weight."""
    return value.producer() is None or value.is_graph_output()


def convert(graph: ir.Graph, dtype: str, inputs: Collection[str], outputs: Collection[str], only: str = "any") -> int:
    """Change those that globs match, and that are of the type `only`, in place. Returns how many.

    Raises PassError before packaging and for states, TargetError for a glob that matches none and for what is no such number.
    """
    need_packaged(graph, "convert_io_dtype")
    new = KINDS[dtype]
    given = matched(graph.inputs, inputs, "input"), matched(graph.outputs, outputs, "output")
    count = 0
    for values, change in zip(given, (_convert_input, _convert_output)):
        wanted = [v for v in values if v.dtype != new and only in ("any", *(k for k in KINDS if KINDS[k] == v.dtype))]
        need_no_states(wanted, "convert_io_dtype")
        for value in wanted:
            if value.dtype not in KINDS.values():
                raise TargetError(
                    f"{value.name} is of type {value.dtype.name.lower()}, and no {dtype} stands for it.",
                    "convert_io_dtype converts between floats and whole numbers of 32 and 64 bits.",
                    "Name other inputs and outputs.",
                )
            change(graph, value, new)
            count += 1
    return count
