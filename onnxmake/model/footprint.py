"""How large the file of a model's weights will be, by the bits that its products are told."""

import itertools
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass

from onnxmake.model.blocks import quantize
from onnxmake.model.graph import DOMAIN, attributes, nodes, produced_by
from onnxmake.model.options import BlockOptions
from onnxmake.model.segments import Key, key_of
from onnxmake.model.weights import laid_out, references, size_of

Array = tuple[
    Hashable, Sequence[int]
]  # what a reference is, equal ones being stored once, and bytes of each of its arrays
Sizes = Sequence[tuple[Key, Array]]  # of every use of a weight, in the file's order


def products(graph: ir.Graph) -> Iterator[tuple[ir.Node, Key]]:
    """Each product by a weight as it is stored, and the weight's key."""
    for node in nodes(graph, "Linear"):
        if weight := produced_by(node.inputs[1], "Weight", DOMAIN):
            yield node, key_of(weight)


def tell(graph: ir.Graph, bits: Mapping[Key, int]) -> int:
    """Tell the products of the weights that are named how many bits they have, for the quantiser that follows. Returns how many."""
    found = [(node, bits[key]) for node, key in products(graph) if key in bits]
    for node, number in found:
        node.attributes["bits"] = ir.AttrInt64("bits", number)
    return len(found)


def sizes(model: ir.Model, bits: int, o: BlockOptions) -> Sizes:
    """Of the model with all its products told these bits, and quantised, in a copy. Raises as `quantize` does."""
    copy = ir.from_proto(ir.to_proto(model))
    tell(copy.graph, {key: bits for _, key in products(copy.graph)})
    quantize(copy.graph, o, "rtn")
    TopologicalSortPass()(copy)  # as canonicalize does; what it merges depends on the choice
    return [(key_of(node), _array(node)) for node in references(copy.graph)]


def _array(node: ir.Node) -> Array:
    return (node.op_type, str(sorted(attributes(node).items()))), [size_of(value) for value in node.outputs]


def file_size(low: Sizes, high: Sizes, chosen: Collection[Key]) -> int:
    """Bytes of model.onnx.data where the weights `chosen` are as in `high`, and all others as in `low`."""
    picked = dict(more if key in chosen else less for (key, less), (_, more) in zip(low, high, strict=True))
    return laid_out(itertools.chain.from_iterable(picked.values()))[1]


def free(low: Sizes, high: Sizes) -> set[Key]:
    """Weights whose high bits save bytes: an embedding that has them already is stored once with the head that it is tied to."""
    smallest = file_size(low, high, ())
    return {key for key in {key for key, _ in low} if file_size(low, high, {key}) < smallest}
