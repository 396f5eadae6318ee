"""How large the file of a model's weights will be, by the bits that they are allocated."""

import itertools
from collections.abc import Collection, Hashable, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass

from onnxmake.model.blocks import quantize
from onnxmake.model.graph import DOMAIN, attributes, nodes, produced_by
from onnxmake.model.options import BlockOptions
from onnxmake.model.segments import Key, key_of
from onnxmake.model.weights import laid_out, references, size_of
from onnxmake.model.widths import ALLOCATED

Array = tuple[
    Hashable, Sequence[int]
]  # what a reference is, equal ones being stored once, and bytes of each of its arrays
Sizes = Sequence[tuple[Key, Array]]  # of every use of a weight, in the file's order


def choices(graph: ir.Graph, o: BlockOptions) -> dict[Key, ir.Node]:
    """Every weight whose bits can be chosen: of products, and of tokens' embeddings, unless `o` says theirs."""
    values = [node.inputs[1] for node in nodes(graph, "Linear")]
    if o.embeddings == "same":
        values += [node.inputs[0] for node in nodes(graph, "Gather") if node.inputs[1].name == "input_ids"]
    found = [weight for value in values if (weight := produced_by(value, "Weight", DOMAIN))]
    return {key_of(weight): weight for weight in found}


def tell(graph: ir.Graph, bits: Mapping[Key, int]) -> int:
    """Tell the quantiser that follows how many bits the weights that are named have. Returns how many there are."""
    found = [(weight, bits[key]) for weight in nodes(graph, "Weight") if (key := key_of(weight)) in bits]
    for weight, number in found:
        weight.attributes[ALLOCATED] = ir.AttrInt64(ALLOCATED, number)
    return len(found)


def sizes(model: ir.Model, bits: int, o: BlockOptions) -> Sizes:
    """Of the model with all its choices told these bits, and quantised, in a copy. Raises as `quantize` does."""
    copy = ir.from_proto(ir.to_proto(model))
    tell(copy.graph, dict.fromkeys(choices(copy.graph, o), bits))
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
