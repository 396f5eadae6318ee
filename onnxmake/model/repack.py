"""Products over the integers that a checkpoint holds: which can be, and in what blocks."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.blocks import RULES
from onnxmake.model.codes import is_symmetric, order_of
from onnxmake.model.graph import attribute, emit, prune
from onnxmake.model.grouped import Grouped
from onnxmake.model.options import BlockOptions
from onnxmake.model.prequantized import Stored
from onnxmake.model.widths import claims, references

Block = Literal[256, 128, 64, 32, 16]
Level = Literal[0, 1, 2, 3, 4]
BLOCKS: tuple[Block, ...] = get_args(Block)  # that the runtime has kernels for, the largest first
Settings = tuple[int, Block, bool]  # bits, block size, symmetric


def _refused(names: Sequence[str], fact: str) -> UnsupportedError:
    return UnsupportedError(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {fact}",
        "Without loss, one product reads codes of one width in blocks of one size, and groups as they follow one another.",
        "Name them under keep: they are dequantised as they are read, and left to a quantiser that follows.",
    )


def _settings(names: Sequence[str], weights: Sequence[Grouped]) -> Settings:
    """What all of an op's weights have in common. Raises UnsupportedError."""
    groups = sorted({weight.group for weight in weights})
    if len({weight.bits for weight in weights}) > 1:
        raise _refused(names, "it is of different bits.")
    block = next((b for b in BLOCKS if all(_divides(b, weight) for weight in weights)), None)
    if block is None:
        raise _refused(names, f"its groups are of {' and '.join(map(str, groups))} inputs.")
    return weights[0].bits, block, all(is_symmetric(weight) for weight in weights)


def _divides(block: int, weight: Grouped) -> bool:
    """Whether each block lies in one group; one group for all may end within a block."""
    return weight.group % block == 0 or (weight.group == weight.shape[1] and block == BLOCKS[-1])


def _order(names: Sequence[str], weights: Sequence[Grouped]) -> np.ndarray | None:
    """The order of inputs that all weights' groups follow, None for their own. Raises UnsupportedError."""
    first, *others = [order_of(weight) for weight in weights]
    if any((first is None) != (other is None) or not np.array_equal(first, other) for other in others):
        raise _refused(names, "its weights have their inputs in different orders.")
    return first


def _reordered(node: ir.Node, order: np.ndarray) -> None:
    """Let the product read its input's columns in this order."""
    name = f"order_{hashlib.sha256(order.tobytes()).hexdigest()[:16]}"
    if name not in node.graph.initializers:
        tensor = ir.tensor(order.astype(np.int64), name=name)
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        node.graph.register_initializer(value)
    x = node.inputs[0]
    node.replace_input_with(0, emit(node, "Gather", [x, node.graph.initializers[name]], x.shape, axis=-1))


def repack(graph: ir.Graph, tensors: Mapping[str, Stored], keep: Sequence[str], accuracy_level: Level) -> int:
    """Every Linear, mixture of experts and look-up whose weights the checkpoint holds in groups of integers, in place.
    Returns how many.

    Raises TargetError for globs `keep` that cannot be meant, UnsupportedError where an op that none of them claims would lose
    something.
    """
    found = []
    for node in [n for n in graph if n.op_type in RULES]:
        parts = [name for weight in references(node) for name in attribute(weight, "parts")]
        if any(isinstance(tensors.get(name), Grouped) for name in parts):
            found.append((node, [*dict.fromkeys(parts)]))
    claimed = claims([[name.removesuffix(".weight") for name in names] for _, names in found], {"keep": keep})
    chosen = [entry for entry, claim in zip(found, claimed) if claim is None]
    for node, names in chosen:
        _repack(node, names, [tensors[name] for name in names], accuracy_level)
    prune(graph)
    return len(chosen)


def _repack(node: ir.Node, names: Sequence[str], stored: Sequence[Stored], accuracy_level: Level) -> None:
    weights = [weight for weight in stored if isinstance(weight, Grouped)]
    if len(weights) < len(stored):
        raise _refused(names, "it is quantised in part.")
    if any("transposed" in weight.attributes or "offset" in weight.attributes for weight in references(node)):
        raise _refused(names, "it is read transposed, or with something added.")
    bits, block, symmetric = _settings(names, weights)
    if (order := _order(names, weights)) is not None and node.op_type != "Linear":
        raise _refused(names, "its inputs have another order.")
    if node.op_type == "Experts" and not symmetric:
        raise _refused(names, "it is a mixture of experts with zero points.")
    if order is not None:
        _reordered(node, order)
    o = BlockOptions(block_size=block, symmetric=symmetric, accuracy_level=accuracy_level)
    if not RULES[node.op_type](node, bits, o, "checkpoint"):
        raise _refused(names, "the runtime has no op for it.")
