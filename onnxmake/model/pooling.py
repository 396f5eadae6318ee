"""From states of tokens [batch, sequence, width] and a mask [batch, sequence], 0 for padding, to one vector [batch, width].

Standard ops in front of a node. As the library sentence-transformers pools; Reimers and Gurevych 2019, "Sentence-BERT".
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import constant, emit, integers

TINY, LOWEST = 1e-7, -6e4  # keeps from dividing by zero; less than states are. Both are numbers in float16, too


def _weights(node: ir.Node, states: ir.Value, mask: ir.Value) -> ir.Value:
    """The mask as [batch, sequence, 1] of the states' type."""
    flags = emit(node, "Cast", [mask], mask.shape, dtype=states.dtype, to=int(states.dtype))
    return emit(node, "Unsqueeze", [flags, integers(node.graph, [2])], [*mask.shape, 1])


def _number(node: ir.Node, value: float, like: ir.Value) -> ir.Value:
    return constant(node.graph, np.array(value, like.dtype.numpy()))


def _vector(states: ir.Value) -> list:
    batch, _, width = states.shape
    return [batch, width]


def mean(node: ir.Node, states: ir.Value, mask: ir.Value) -> ir.Value:
    """The mean over the tokens of each text."""
    weights, axis = _weights(node, states, mask), integers(node.graph, [1])
    kept = emit(node, "Mul", [states, weights], states.shape)
    total = emit(node, "ReduceSum", [kept, axis], _vector(states), keepdims=0)
    count = emit(node, "ReduceSum", [weights, axis], [states.shape[0], 1], keepdims=0)
    count = emit(node, "Max", [count, _number(node, 1, states)], count.shape)  # of an empty text
    return emit(node, "Div", [total, count], total.shape)


def cls(node: ir.Node, states: ir.Value, mask: ir.Value) -> ir.Value:
    """The first token's states."""
    return emit(node, "Gather", [states, constant(node.graph, np.array(0, np.int64))], _vector(states), axis=1)


def highest(node: ir.Node, states: ir.Value, mask: ir.Value) -> ir.Value:
    """The largest value of each channel over the tokens of each text."""
    seen = emit(
        node, "Cast", [_weights(node, states, mask)], [*mask.shape, 1], dtype=ir.DataType.BOOL, to=int(ir.DataType.BOOL)
    )
    kept = emit(node, "Where", [seen, states, _number(node, LOWEST, states)], states.shape, dtype=states.dtype)
    return emit(node, "ReduceMax", [kept, integers(node.graph, [1])], _vector(states), keepdims=0)


def last(node: ir.Node, states: ir.Value, mask: ir.Value) -> ir.Value:
    """The states of each text's last token, wherever padding is."""
    sequence = emit(node, "Shape", [mask], [2], dtype=ir.DataType.INT64)
    length = emit(node, "Gather", [sequence, constant(node.graph, np.array(1, np.int64))], [], axis=0)
    zero, one = (constant(node.graph, np.array(n, np.int64)) for n in (0, 1))
    numbers = emit(node, "Range", [zero, length, one], [mask.shape[1]])
    places = emit(node, "Mul", [mask, numbers], mask.shape)
    place = emit(node, "ArgMax", [places], [mask.shape[0], 1], dtype=ir.DataType.INT64, axis=1, keepdims=1)
    index = emit(node, "Unsqueeze", [place, integers(node.graph, [2])], [mask.shape[0], 1, 1])
    width = integers(node.graph, [1, 1, states.shape[2]])
    index = emit(node, "Expand", [index, width], [mask.shape[0], 1, states.shape[2]])
    found = emit(node, "GatherElements", [states, index], [states.shape[0], 1, states.shape[2]], axis=1)
    return emit(node, "Squeeze", [found, integers(node.graph, [1])], _vector(states))


def normalized(node: ir.Node, vector: ir.Value) -> ir.Value:
    """Of length 1."""
    length = emit(node, "ReduceL2", [vector, integers(node.graph, [1])], [vector.shape[0], 1], keepdims=1)
    length = emit(node, "Max", [length, _number(node, TINY, vector)], length.shape)
    return emit(node, "Div", [vector, length], vector.shape)


POOLS: Mapping[str, Callable[[ir.Node, ir.Value, ir.Value], ir.Value]] = {
    "mean": mean,
    "cls": cls,
    "max": highest,
    "last": last,
}
