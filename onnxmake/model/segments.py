"""A graph run a layer at a time over many inputs, in the memory of one layer: for calibration, and for models larger than memory."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.canonical import canonicalize
from onnxmake.model.feeds import states
from onnxmake.model.graph import DOMAIN, attribute, produced_by
from onnxmake.model.lowering import apply, cpu
from onnxmake.model.parts import not_finite, read
from onnxmake.model.reader import Reader
from onnxmake.model.session import open_bytes

LAYER = re.compile(r"\.(\d+)\.")  # in the names of a layer's weights
FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
Values = dict[str, np.ndarray]
Key = tuple[str, ...]  # of a weight


@dataclass(frozen=True)
class Segment:
    """Nodes between two cuts. Weights are inputs like any other: they can be exchanged between two runs."""

    graph: ir.Graph
    nodes: Sequence[ir.Node]
    references: Mapping[str, ir.Node]  # input -> the Weight that it is
    inputs: Collection[str]
    outputs: Collection[str]  # that a later segment reads, or that are the graph's own

    @cached_property
    def products(self) -> dict[str, str]:
        """Weight -> the activation that it multiplies, of every matrix product by a weight as it is stored."""
        found = [n for n in self.nodes if n.op_type == "FusedMatMul" and n.inputs[1].name in self.references]
        return {n.inputs[1].name: n.inputs[0].name for n in found}

    @property
    def size(self) -> int:
        """Bytes of its weights as float32."""
        return 4 * sum(math.prod(node.outputs[0].shape) for node in self.references.values())

    def weights(self, reader: Reader) -> Values:
        """Every weight as float32. Raises CheckpointError for values that are not finite."""
        return {name: _read(node, reader) for name, node in self.references.items()}

    @cached_property
    def _session(self) -> Any:
        return open_bytes(_proto(self))

    def run(
        self, values: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], names: Collection[str]
    ) -> Values:
        """The values `names`, outputs or activations of products, as float32."""
        feed = {name: values[name] if name in values else weights[name] for name in self.inputs}
        for value in (v for n in self.nodes for v in n.inputs if v is not None and v.dtype is None and v.name in feed):
            value.type = ir.TensorType(
                ir.DataType.from_numpy(feed[value.name].dtype)
            )  # a size that an earlier one computed
        made = [name for name in names if name not in values]
        return {name: values[name] for name in names if name in values} | dict(zip(made, self._session.run(made, feed)))


def key_of(reference: ir.Node) -> Key:
    """What two references to the same values have in common."""
    return tuple(str(attribute(reference, name)) for name in ("parts", "rows", "transposed", "alternate", "offset"))


def _read(node: ir.Node, reader: Reader) -> np.ndarray:
    out = np.empty([*node.outputs[0].shape], np.float32)
    flat, start, offset = out.reshape(-1), 0, attribute(node, "offset", 0.0)
    for name, rows in read(node, reader):
        if not np.isfinite(rows).all():
            raise not_finite(name)
        flat[start : start + rows.size] = rows.reshape(-1)
        start += rows.size
    return out + np.float32(offset) if offset else out


def _proto(segment: Segment) -> bytes:
    """The segment as a model of its own."""
    values = {v.name: v for n in segment.nodes for v in (*n.inputs, *n.outputs) if v is not None}
    used = [n for n in segment.graph.initializers if n in values]
    model = ir.to_proto(ir.Model(ir.Graph([], [], nodes=[], opset_imports=segment.graph.opset_imports), ir_version=10))
    model.graph.name = "segment"
    model.graph.node.extend(ir.to_proto(node) for node in segment.nodes)
    model.graph.initializer.extend(ir.to_proto(segment.graph.initializers[n].const_value) for n in used)
    model.graph.input.extend(ir.to_proto(values[name]) for name in segment.inputs)
    taps = [name for name in {*segment.products.values()} if name not in segment.inputs]
    model.graph.output.extend(ir.to_proto(values[name]) for name in {*segment.outputs, *taps})
    return model.SerializeToString()


def widen(graph: ir.Graph) -> None:
    """Compute everything in float32: weights are read as they are stored, and no device's types are asked for."""
    for value in {*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)}:
        if value.dtype in FLOATS:
            value.type = ir.TensorType(ir.DataType.FLOAT)
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    for node in graph:
        if node.op_type == "Cast" and ir.DataType(attribute(node, "to")) in FLOATS:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        constant = node.attributes.get("value")
        if node.op_type == "Constant" and constant is not None and constant.value.dtype in FLOATS:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(constant.value.numpy().astype(np.float32)))


def segments(model: ir.Model, wanted: Collection[str]) -> list[Segment]:
    """The model for the CPU, in float32, cut between layers as the names of their weights number them; in place.

    `wanted`: the graph's outputs to compute. Raises UnsupportedError where weights are quantised already.
    """
    graph = model.graph
    if any(node.op_type == "QuantizedWeight" for node in graph):
        raise UnsupportedError(
            "The graph holds weights that are quantised already.",
            "repack, or a quantiser, came before a pass that runs the unquantised model on a text.",
            "Leave what is left to a quantiser that needs no text, such as quantize_rtn.",
        )
    graph.outputs[:] = [value for value in graph.outputs if value.name in wanted]
    widen(graph)
    apply(graph, cpu.TABLE, keep={"Linear"})  # which attention may pack
    apply(graph, cpu.TABLE)
    canonicalize(model)
    place: dict[str, int] = {}
    cuts: dict[int, list[ir.Node]] = {}
    for node in graph:
        if node.domain == DOMAIN:
            continue
        before = max((place[v.name] for v in node.inputs if v is not None and v.name in place), default=0)
        number = max([before, *(_layer(v, before) for v in node.inputs)])
        place |= {value.name: number for value in node.outputs}
        cuts.setdefault(number, []).append(node)
    kept = {value.name for value in graph.outputs}
    readers = {
        v.name: max([place.get(u.outputs[0].name, 0) for u, _ in v.uses()], default=0) for n in graph for v in n.outputs
    }
    return [_segment(graph, nodes, number, place, readers, kept) for number, nodes in sorted(cuts.items())]


def _layer(value: ir.Value | None, before: int) -> int:
    """The number of the layer whose weight it is, from 1; what comes behind all layers has one of its own."""
    reference = produced_by(value, "Weight", DOMAIN)
    if reference is None:
        return 0
    numbers = [int(match[1]) + 1 for part in attribute(reference, "parts") if (match := LAYER.search(part))]
    return max(numbers, default=before + 1 if before else 0)


def _segment(graph: ir.Graph, nodes, number, place, readers, kept) -> Segment:
    read_here = {v.name: v for n in nodes for v in n.inputs if v is not None and v.name not in graph.initializers}
    made = {v.name for n in nodes for v in n.outputs}
    references = {name: node for name, v in read_here.items() if (node := produced_by(v, "Weight", DOMAIN))}
    outputs = [name for name in made if name and (readers[name] > number or name in kept)]
    return Segment(graph, nodes, references, sorted({*read_here} - made), sorted(outputs))


def advance(
    segment: Segment, live: Sequence[Values], weights: Mapping[str, np.ndarray], later: Sequence[Segment]
) -> None:
    """Run the segment over every input, and keep what later ones read."""
    needed = {name for other in later for name in other.inputs}
    for values in live:
        values |= segment.run(values, weights, [*segment.outputs])
        for name in {*values} - needed:
            del values[name]


def outputs(
    model: ir.Model, reader: Reader, feeds: Sequence[Mapping[str, np.ndarray]], wanted: Collection[str]
) -> Iterator[Values]:
    """The graph's outputs `wanted` for each of `feeds`, each made when it is asked for; states that a feed leaves out are empty."""
    parts, read = segments(model, wanted), {value.name for value in model.graph.inputs}
    whole = [{**states(model.graph, len(next(iter(feed.values())))), **feed} for feed in feeds]  # of the CPU's widths
    live = [{n: v for n, v in feed.items() if n in read} for feed in whole]
    for i, segment in enumerate(parts[:-1]):
        advance(segment, live, segment.weights(reader), parts[i + 1 :])
    weights = parts[-1].weights(reader)
    for values in live:
        yield {**{n: values[n] for n in wanted if n in values}, **parts[-1].run(values, weights, parts[-1].outputs)}
        values.clear()
