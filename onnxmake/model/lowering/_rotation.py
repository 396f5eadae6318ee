"""Rotations that ONNX Runtime's own operators do: what they take, and the caches of cosines and sines that they read."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import (
    CONTRIB,
    DOMAIN,
    attribute,
    constant,
    emit,
    integers,
    produced_by,
    replace,
    rotary_width,
)
from onnxmake.model.lowering._attention import tokens_first
from onnxmake.model.lowering._rotary import is_far, waves
from onnxmake.model.lowering._rotary import rotary_embedding as plain


def fixed_table(turn: ir.Node) -> ir.Node | None:
    """The RotaryTable of a rotation, if caches can stand for it: positions must be the graph's position_ids."""
    table = produced_by(turn.inputs[1], "RotaryTable", DOMAIN)
    return table if table is not None and table.inputs[0].name == "position_ids" else None


def rotation(q: ir.Value, k: ir.Value) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """The rotations of q and k and their table, if the attention op can do them: same table, a width it takes.

    It counts positions itself, as position_ids do.
    """
    turns = [produced_by(x, "RotaryEmbedding", DOMAIN) for x in (q, k)]
    if None in turns or turns[0].inputs[1:] != turns[1].inputs[1:]:
        return None
    if attribute(turns[0], "interleaved") != attribute(turns[1], "interleaved"):
        return None
    table = fixed_table(turns[0])
    if table is None or rotary_width(turns[0]) % 16 or q.shape[3] % 16:
        return None
    return turns[0], turns[1], table


def rotary_caches(table: ir.Node) -> list[ir.Value]:
    """cos and sin [positions, R/2], computed from constants alone: the runtime does it once, at load, and the file stays small.

    Where far positions have frequencies of their own, both caches stand one behind the other, and as many rows as there
    are tokens are taken of the one that holds: [total, R/2].
    """
    near, count = attribute(table, "frequencies"), attribute(table, "positions")
    first, end, step = (constant(table.graph, np.array(values, np.float32)) for values in (0, count, 1))
    column = emit(table, "Range", [first, end, step], [count])
    positions = emit(table, "Unsqueeze", [column, integers(table.graph, [1])], [count, 1])

    def angles(frequencies: Sequence[float]) -> ir.Value:
        row = constant(table.graph, np.array(frequencies, np.float32))
        return emit(table, "Mul", [positions, row], [count, len(frequencies)])

    if "threshold" not in table.attributes:
        return waves(table, angles(near), table.outputs[0].dtype)
    both = [angles(near), angles(attribute(table, "far_frequencies"))]
    stack = emit(table, "Concat", both, [2 * count, len(near)], axis=0)
    number = emit(table, "Cast", [is_far(table)], [], dtype=ir.DataType.INT64, to=int(ir.DataType.INT64))
    number = emit(table, "Reshape", [number, integers(table.graph, [1])], [1])
    skipped = emit(table, "Mul", [number, integers(table.graph, [count])], [1])
    mask = next(v for v in table.graph.inputs if v.name == "attention_mask")
    length = emit(table, "Shape", [mask], [1], dtype=ir.DataType.INT64, start=1, end=2)
    bounds = [skipped, emit(table, "Add", [skipped, length], [1]), integers(table.graph, [0])]
    caches = waves(table, stack, table.outputs[0].dtype)
    return [emit(table, "Slice", [cache, *bounds], ["total", len(near)]) for cache in caches]


def rotary_embedding(node: ir.Node) -> None:
    """RotaryEmbedding over x [B, S, H * D], position_ids, cos and sin [positions, R / 2]."""
    x, table = node.inputs[0], fixed_table(node)
    if table is None:
        plain(node)
        return
    (batch, heads, seq, dim), width = x.shape, rotary_width(node)
    partial = {} if width == dim else {"num_heads": heads, "rotary_embedding_dim": width}
    partial |= {"interleaved": 1} if attribute(node, "interleaved") else {}
    operands = [tokens_first(node, x), table.inputs[0], *rotary_caches(table)]
    out = emit(node, "RotaryEmbedding", operands, [batch, seq, heads * dim], CONTRIB, **partial)
    out = emit(node, "Reshape", [out, integers(node.graph, [0, 0, heads, dim])], [batch, seq, heads, dim])
    replace(node, [emit(node, "Transpose", [out], x.shape, perm=[0, 2, 1, 3])])
