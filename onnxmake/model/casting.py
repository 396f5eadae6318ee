"""Another float type for a graph of semantic ops: its weights, activations, inputs and outputs."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model.graph import CONTRIB, DOMAIN, attribute, emit, prune

TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

LARGEST = {ir.DataType.FLOAT16: 65504.0}
VALUED = ("Constant", "ConstantOfShape")  # give what their attribute holds


def _tensor(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.Tensor:
    """Round to `dtype`; what it cannot hold becomes its largest value (masks are written as the lowest float32)."""
    limit = LARGEST.get(dtype, np.inf)
    return ir.tensor(
        np.clip(tensor.numpy().astype(np.float32), -limit, limit).astype(dtype.numpy()), dtype=dtype, name=tensor.name
    )


def _between_integers(graph: ir.Graph, old: ir.DataType) -> set[ir.Value]:
    """Floats that come of integers alone and that nothing but integers comes of, such as the logarithm of a distance, whose
    whole part names a bucket: rounded, it would name another."""
    between: set[ir.Value] = set()
    for end in graph:
        if end.op_type != "Cast" or end.inputs[0].dtype != old or not ir.DataType(attribute(end, "to")).is_integer():
            continue
        found: set[ir.Value] = set()
        ahead, unknown = [end.inputs[0]], (old, None)
        while ahead:
            value = ahead.pop()
            if value is None or value in found or value.const_value is not None or value.dtype not in unknown:
                continue
            maker = value.producer()
            if value.dtype is None and maker is not None and maker.op_type == "Shape":
                continue
            found.add(value)
            ahead += maker.inputs if maker is not None else ()
        makers = [value.producer() for value in found]
        users = [user for value in found for user, _ in value.uses()]
        if all(node is not None and node.domain == "" for node in makers) and all(
            v in found or v.dtype not in unknown for node in (*makers, *users) for v in node.outputs
        ):
            between |= found
    return between


def _own_constants(graph: ir.Graph, between: set[ir.Value], old: ir.DataType) -> set[ir.Value]:
    """Let what computes `between` read copies of its float constants. Returns the copies."""
    copies: dict[str, ir.Value] = {}
    for node in [n for n in graph if n.outputs[0] in between]:
        for place, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.dtype != old:
                continue
            if (name := f"{value.name}_exact") not in copies:
                tensor = ir.tensor(value.const_value.numpy(), dtype=old, name=name)
                copies[name] = ir.Value(name=name, const_value=tensor, shape=value.shape, type=value.type)
                graph.register_initializer(copies[name])
            node.replace_input_with(place, copies[name])
    if copies:
        prune(graph)
    return {*copies.values()}


def _around(graph: ir.Graph, large: Collection[ir.Value]) -> set[ir.Node]:
    """The nodes that read or make one of the values `large`, and weights that only these read."""
    around = {node for node in graph if not {*large}.isdisjoint((*node.inputs, *node.outputs))}
    weights = [node for node in graph if node.op_type == "Weight" and around]
    return around | {node for node in weights if all(user in around for user, _ in node.outputs[0].uses())}


def _lead_in_and_out(
    nodes: Collection[ir.Node], exact: Collection[ir.Value], old: ir.DataType, new: ir.DataType
) -> set:
    """Casts between these nodes, whose values of the old type are among `exact`, and the others. Returns what leads in."""
    within: set[ir.Value] = set()
    for node in nodes:
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == old and value not in exact:
                within.add(cast := emit(node, "Cast", [value], value.shape, dtype=old, to=int(old)))
                node.replace_input_with(place, cast)
        for value in [v for v in node.outputs if v in exact]:
            for user, place in [(u, p) for u, p in value.uses() if u not in nodes]:
                user.replace_input_with(place, emit(user, "Cast", [value], value.shape, dtype=new, to=int(new)))
            if value.is_graph_output():
                _hand_out(value, new)
    return within


def _hand_out(value: ir.Value, new: ir.DataType) -> None:
    """Let a cast of the value be the graph's output in its place."""
    graph, end = value.graph, ir.node("Cast", [value], attributes={"to": int(new)})
    graph.append(end)
    out = end.outputs[0]
    out.name, out.type, out.shape, value.name = value.name, ir.TensorType(new), value.shape, f"{value.name}_exact"
    graph.outputs[:] = [out if v is value else v for v in graph.outputs]


def float_type(graph: ir.Graph) -> ir.DataType:
    """The type that the graph computes in."""
    return next((v.dtype for v in graph.outputs if v.name == "logits"), graph.outputs[0].dtype)


def cast(model: ir.Model, dtype: str, large: Collection[ir.Value] = ()) -> int:
    """Change the float type in place; what reads or makes one of `large` is computed as before. Returns the number of values.

    Raises PassError where the graph is of a device's ops already.
    """
    graph, new, count = model.graph, TYPES[dtype], 0
    if any(node.domain == CONTRIB for node in graph) or not any(node.domain == DOMAIN for node in graph):
        raise PassError(
            "cast came after optimize or a quantiser.",
            "It changes types while the graph is still of semantic ops.",
            "Move cast up, right behind export.",
        )
    old = float_type(graph)
    if old == new:
        return 0
    around = _around(graph, large)
    exact = _between_integers(graph, old) | {v for node in around for v in node.outputs if v.dtype == old}
    exact |= _own_constants(graph, exact, old)
    exact |= _lead_in_and_out(around, exact, old, new)
    for value in graph.initializers.values():
        if value.dtype == old and value not in exact:
            value.const_value = _tensor(value.const_value, new)
    for value in {*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)}:
        if value.dtype == old and value not in exact:
            value.type = ir.TensorType(new)
            count += 1
    for node in (n for n in graph if n.outputs[0] not in exact):
        if node.op_type == "Cast" and attribute(node, "to") == old:
            node.attributes["to"] = ir.AttrInt64("to", int(new))
        elif node.op_type in VALUED and "value" in node.attributes and node.attributes["value"].value.dtype == old:
            node.attributes["value"] = ir.AttrTensor("value", _tensor(node.attributes["value"].value, new))
        elif node.op_type == "Constant" and "value_float" in node.attributes and node.outputs[0].dtype == new:
            node.attributes["value"] = ir.AttrTensor(
                "value", _tensor(ir.tensor(np.float32(node.attributes.pop("value_float").value)), new)
            )
    return count
