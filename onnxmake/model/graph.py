"""The few graph operations that passes share, over onnx_ir."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

DOMAIN = "onnxmake"
CONTRIB = "com.microsoft"


def constant(graph: ir.Graph, array: np.ndarray) -> ir.Value:
    """An initializer holding `array`; the same array gives the same value."""
    name = f"const_{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel().tolist()))}"
    if name not in graph.initializers:
        graph.register_initializer(
            ir.Value(
                name=name,
                const_value=ir.tensor(array, name=name),
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            )
        )
    return graph.initializers[name]


def integers(graph: ir.Graph, values: Sequence[int]) -> ir.Value:
    return constant(graph, np.array(values, np.int64))


def emit(
    before: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    shape: Iterable,
    domain: str = "",
    dtype: ir.DataType | None = None,
    **attributes,
) -> ir.Value:
    """A new one-output node in front of `before`; dtype is that of the first input unless given."""
    return emit_many(before, op, inputs, [shape], domain, [dtype or inputs[0].dtype], **attributes)[0]


def emit_many(
    before: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    shapes: Sequence[Iterable | None],
    domain: str = "",
    dtypes: Sequence[ir.DataType | None] = (),
    **attributes,
) -> Sequence[ir.Value]:
    """A new node in front of `before`; an output whose shape is None stays nameless and unused."""
    node = ir.node(op, inputs, domain=domain, attributes=attributes, num_outputs=len(shapes))
    for i, (value, shape) in enumerate(zip(node.outputs, shapes)):
        value.type = ir.TensorType((dtypes[i] if i < len(dtypes) else None) or inputs[0].dtype)
        value.shape = None if shape is None else ir.Shape(shape)
        if shape is None:
            value.name = ""
    before.graph.insert_before(before, node)
    return node.outputs


def replace(node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Let `values` take the place of the node's outputs, names of graph outputs included, and remove the node."""
    for old, new in zip(node.outputs, values):
        if old.is_graph_output():
            new.name = old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


def prune(graph: ir.Graph) -> None:
    """Remove nodes and initializers that no output needs."""
    for node in reversed(list(graph)):
        if not any(o.uses() or o.is_graph_output() for o in node.outputs):
            graph.remove(node, safe=True)
    for name in [
        name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()
    ]:
        graph.initializers.pop(name)


def nodes(graph: ir.Graph, *ops: str) -> list[ir.Node]:
    """The nodes of these op types, as a list that stays valid while the graph changes."""
    return [node for node in graph if node.op_type in ops]


def produced_by(value: ir.Value | None, op: str, domain: str = "") -> ir.Node | None:
    """The node that computes `value`, if it is an `op`."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and node.domain == domain else None


def array(value: ir.Value | None) -> np.ndarray | None:
    """The value's content where it is known before the model runs."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def last_axis_slice(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """x, start and end where the value is a slice of x along the last axis."""
    node = produced_by(value, "Slice")
    if node is None or node.inputs[0].shape is None:
        return None
    constants = [array(v) for v in node.inputs[1:]]
    if len(constants) < 3 or any(c is None or c.size != 1 for c in constants):
        return None
    start, end, axis, step = [*(int(c.item()) for c in constants), 1][:4]
    x, rank = node.inputs[0], node.inputs[0].shape.rank()
    width = x.shape[-1]
    if axis % rank != rank - 1 or step != 1 or not isinstance(width, int):
        return None
    return x, start % width, min(end, width) if end >= 0 else width + end


def attributes(node: ir.Node) -> dict[str, Any]:
    """All of them by name: for a node like this one."""
    return {name: a.value for name, a in node.attributes.items()}


def rotary_width(turn: ir.Node) -> int:
    """Channels that a RotaryEmbedding turns."""
    return turn.inputs[1].shape[-1] * (2 if attribute(turn, "layout") == "once" else 1)


def attribute(node: ir.Node, name: str, default=None):
    return node.attributes[name].value if name in node.attributes else default
