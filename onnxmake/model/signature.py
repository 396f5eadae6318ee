"""What a graph computes, apart from how its file says it: each node's signature is over its operator, its attributes and the
signatures of what it reads. Names and order of nodes do not count."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import onnx_ir as ir

Known = dict[ir.Value, str]


def _digest(parts: Iterable) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()


def _value(value: ir.Value) -> str:
    """Of one that no node makes: its name, type and shape."""
    return f"{value.name} {value.dtype} {value.shape}"


def _attribute(found: ir.Attr, known: Known) -> str:
    """Of a graph: what its outputs are, over values from outside it, too."""
    if found.type == ir.AttributeType.GRAPH:
        return _inner(found.value, known)
    if found.type == ir.AttributeType.GRAPHS:
        return _digest(_inner(graph, known) for graph in found.value)
    if found.type == ir.AttributeType.TENSOR:
        return _tensor(found.value)
    if found.type == ir.AttributeType.TENSORS:
        return _digest(map(_tensor, found.value))
    return repr(found.value)


def _tensor(found: ir.TensorProtocol) -> str:
    return _digest((str(found.dtype), str(found.shape), found.tobytes()))


def _inner(graph: ir.Graph, known: Known) -> str:
    within = dict(known)
    signatures(graph, within)
    held = sorted((v.name, _tensor(v.const_value)) for v in graph.initializers.values())
    return _digest([*(within[v] for v in graph.outputs), held])


def signatures(graph: ir.Graph, known: Known) -> list[str]:
    """Of each node in the graph's order; `known` takes up those of its values."""
    known |= {value: _value(value) for value in (*graph.inputs, *graph.initializers.values())}
    made = []
    for node in graph:
        read = [known[v] if v is not None else "" for v in node.inputs]
        own = sorted((name, _attribute(a, known)) for name, a in node.attributes.items())
        made.append(_digest([node.domain, node.op_type, own, read, len(node.outputs)]))
        known |= {value: f"{made[-1]}.{i}" for i, value in enumerate(node.outputs)}
    return made


def _lacking(graph: ir.Graph, signed: Sequence[str], others: Sequence[str]) -> ir.Node | None:
    """The first node, in the order of computation, that the other graph does not have: what reads it differs only for that."""
    left = Counter(others)
    for node, signature in zip(graph, signed):
        left[signature] -= 1
        if left[signature] < 0:
            return node
    return None


def _why(node: ir.Node, one: Known, other: ir.Graph, known: Known) -> str:
    """What the node of the same name has otherwise, if it is the same operator."""
    twin = next((n for n in other if n.name == node.name and n.op_type == node.op_type), None)
    if twin is None:
        return "the other has no such node"
    mine, its = (
        {k: _attribute(a, known) for k, a in n.attributes.items()} for n, known in ((node, one), (twin, known))
    )
    if names := sorted(k for k in {*mine, *its} if mine.get(k) != its.get(k)):
        return f"the other has another {', '.join(names)}"
    return "the other reads something else"


def difference(first: ir.Model, second: ir.Model) -> str:
    """What is first not the same in two canonical models but the values of their initializers; empty if nothing."""
    sides: list[tuple[ir.Graph, Known, list[str]]] = []
    for model in (first, second):
        known: Known = {}
        sides.append((model.graph, known, signatures(model.graph, known)))
    (a, in_a, of_a), (b, in_b, of_b) = sides
    for kind in ("initializers", "inputs"):
        mine, its = ({v.name: _value(v) for v in _values(graph, kind)} for graph in (a, b))
        if names := [name for name in {**mine, **its} if mine.get(name) != its.get(name)]:
            return f"{kind[:-1]} {names[0]}: {mine.get(names[0], 'absent')} and {its.get(names[0], 'absent')}"
    if node := _lacking(a, of_a, of_b):
        return f"node {node.name} of the first: {_why(node, in_a, b, in_b)}"
    if node := _lacking(b, of_b, of_a):
        return f"node {node.name} of the second: {_why(node, in_b, a, in_a)}"
    for x, y in zip(a.outputs, b.outputs):
        if (_value(x), in_a[x]) != (_value(y), in_b[y]):
            return f"output {x.name}: {_value(x)} and {_value(y)}"
    if [v.name for v in a.inputs] != [v.name for v in b.inputs] or len(a.outputs) != len(b.outputs):
        return "inputs or outputs come in another order"
    if dict(first.opset_imports) != dict(second.opset_imports):
        return f"operator sets: {dict(first.opset_imports)} and {dict(second.opset_imports)}"
    return ""


def _values(graph: ir.Graph, kind: str) -> Iterable[ir.Value]:
    return graph.initializers.values() if kind == "initializers" else graph.inputs
