"""Stamp traced decoder layers out to the real depth, where two traced layers of each repeated kind are the same
graph."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxmake.model.capture.states import State
from onnxmake.model.graph import attribute

SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass
class Block:
    """The nodes of one traced layer, its past and present, and the hidden state it hands on."""

    past: tuple[ir.Value, ...]
    present: tuple[ir.Value, ...]
    nodes: list[ir.Node] = field(default_factory=list)
    output: ir.Value | None = None


def _layer_of(node: ir.Node, path: str) -> int | None:
    """Position of the traced layer that the node belongs to, by its module path or, for a weight, by its name."""
    names = (
        attribute(node, "parts")
        if node.op_type == "Weight"
        else ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    )
    matches = (re.match(re.escape(path) + r"\.(\d+)(\.|$)", name) for name in names)
    return next((int(m[1]) for m in matches if m), None)


def ends(graph: ir.Graph, count: int) -> tuple[list[ir.Value], list[ir.Value]]:
    """The last `count` inputs, and the last `count` outputs: the past and present of that many states."""
    return list(graph.inputs)[len(graph.inputs) - count :], list(graph.outputs)[len(graph.outputs) - count :]


def _split(
    graph: ir.Graph, path: str, traced: Sequence[int], states: Sequence[State]
) -> tuple[list[Block], list[ir.Node]] | None:
    """One block per layer and the nodes after them.

    None where layers share more than one hidden state with the next.
    """
    pairs, count = list(zip(states, *ends(graph, len(states)))), len(traced)
    blocks = [
        Block(
            tuple(past for s, past, _ in pairs if s.layer == layer),
            tuple(out for s, _, out in pairs if s.layer == layer),
        )
        for layer in traced
    ]
    after: list[ir.Node] = []
    place: dict[ir.Node, int] = {}  # node -> -1 before the layers, 0.. in a layer, count after them
    for node in graph:
        sources = [(v, place[v.producer()]) for v in node.inputs if v is not None and v.producer() is not None]
        layer = _layer_of(node, path)
        if layer is None:
            layer = -1 if all(s == -1 for _, s in sources) else count
        place[node] = layer
        if layer == count:
            after.append(node)
        elif layer >= 0:
            blocks[layer].nodes.append(node)
        for value, source in sources:
            if source in (-1, layer):
                continue
            if source != layer - 1 or blocks[source].output not in (None, value):
                return None
            blocks[source].output = value
    for value in graph.outputs[: len(graph.outputs) - len(states)]:
        source = place.get(value.producer(), -1)
        if 0 <= source < count:
            if source != count - 1 or blocks[-1].output not in (None, value):
                return None
            blocks[-1].output = value
    return (blocks, after) if all(b.nodes and b.output is not None for b in blocks) else None


def _describe(block: Block, hidden: ir.Value | None, prefix: str) -> list[tuple]:
    """A block as data: op, attributes without the layer's number, and where each operand comes from."""
    origin = {value: ("inner", n, o) for n, node in enumerate(block.nodes) for o, value in enumerate(node.outputs)}
    origin |= (
        {past: ("past", i) for i, past in enumerate(block.past)}
        | {None: ("none",)}
        | ({} if hidden is None else {hidden: ("hidden",)})
    )
    return [
        (
            n.domain,
            n.op_type,
            str(sorted((k, str(a.value).replace(prefix, "")) for k, a in n.attributes.items())),
            [origin.get(v, ("outer", v)) for v in n.inputs],
        )
        for n in block.nodes
    ]


def _same(a: list[tuple], b: list[tuple]) -> bool:
    """Equal descriptions, where the hidden state of a first layer may be any one value from before the layers."""
    pairs = [pair for (*_, x), (*_, y) in zip(a, b) for pair in zip(x, y)]
    embedded = {x for x, y in pairs if x != y and y == ("hidden",) and x[0] == "outer"}
    return (
        [(*op, len(x)) for *op, x in a] == [(*op, len(x)) for *op, x in b]
        and len(embedded) <= 1
        and all(x == y or x in embedded and y == ("hidden",) for x, y in pairs)
    )


def _copy(block: Block, values: dict[ir.Value, ir.Value], old: str, new: str, anchor: ir.Node) -> None:
    """Copy the block in front of `anchor` with operands from `values`, which gains the copies' outputs.

    `old` becomes `new` in weights' names.
    """
    for node in block.nodes:
        attributes = list(node.attributes.values())
        if node.op_type == "Weight":
            attributes = [ir.AttrStrings("parts", [p.replace(old, new, 1) for p in attribute(node, "parts")])]
        copy = ir.Node(
            node.domain,
            node.op_type,
            [values.get(v, v) for v in node.inputs],
            attributes,
            num_outputs=len(node.outputs),
        )
        copy.metadata_props.update({k: v.replace(old, new) for k, v in node.metadata_props.items()})
        for before, after in zip(node.outputs, copy.outputs):
            after.shape, after.type = before.shape, before.type
            values[before] = after
        anchor.graph.insert_before(anchor, copy)


def stamp(
    model: ir.Model, path: str, kind: list[int], traced: list[int], states: Sequence[State]
) -> list[State] | None:
    """Replace the traced layers by one copy for each entry of `kind`, in place.

    Returns the states of all layers. None: their graphs do not allow it, nothing was done.

    The last inputs are the pasts, the last outputs the presents of `states`. `path` is the layers' module path in
    the traced program, `kind` the first layer like each layer, `traced` the real index of each traced one.
    """
    graph = model.graph
    split = _split(graph, path, traced, states)
    if split is None:
        return None
    blocks, after = split
    described = [_describe(b, blocks[i - 1].output if i else None, f"{path}.{i}.") for i, b in enumerate(blocks)]
    template: dict[
        int, int
    ] = {}  # kind -> position of the block to copy; a later one, as the first layer's hidden state is special
    for position, layer in enumerate(traced):
        if kind[layer] in template and not _same(described[template[kind[layer]]], described[position]):
            return None
        template[kind[layer]] = position

    anchor, hidden, past, present, stamped = blocks[0].nodes[0], None, [], [], []
    for layer, k in enumerate(kind):
        position = template[k] if layer else 0
        block = blocks[position]
        values: dict[ir.Value, ir.Value] = {} if hidden is None else {blocks[position - 1].output: hidden}
        values |= {v: ir.Value(name=f"past_{layer}_{i}", shape=v.shape, type=v.type) for i, v in enumerate(block.past)}
        past += [values[v] for v in block.past]
        _copy(block, values, f"{path}.{position}.", f"{path}.{layer}.", anchor)
        present += [values[v] for v in block.present]
        stamped += [replace(s, layer=layer) for s in states if s.layer == traced[position]]
        hidden = values[block.output]
    for node in after:
        for i, value in enumerate(node.inputs):
            if value is blocks[-1].output:
                node.replace_input_with(i, hidden)
    graph.outputs[:] = [hidden if value is blocks[-1].output else value for value in graph.outputs]
    for values, old, new in zip((graph.inputs, graph.outputs), ends(graph, len(states)), (past, present)):
        values[len(values) - len(old) :] = new
    for block in reversed(blocks):
        graph.remove(block.nodes, safe=True)
    return stamped
