"""Attention kernels of ONNX Runtime's own operators, which several devices have: what they take, and how it is laid out."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import (
    CONTRIB,
    DOMAIN,
    attribute,
    constant,
    emit,
    emit_many,
    integers,
    last_axis_slice,
    produced_by,
    replace,
    rotary_width,
)
from onnxmake.model.lowering import portable


def tokens_first(node: ir.Node, value: ir.Value) -> ir.Value:
    """[B, H, S, D] as [B, S, H * D], without the reshapes and transposes that made it where they can be seen."""
    batch, heads, seq, dim = value.shape
    transpose = produced_by(value, "Transpose")
    if transpose is not None and list(attribute(transpose, "perm")) == [0, 2, 1, 3]:
        inner = transpose.inputs[0]
    else:
        inner = emit(node, "Transpose", [value], [batch, seq, heads, dim], perm=[0, 2, 1, 3])
    flat = produced_by(inner, "Reshape")
    if flat is not None and list(flat.inputs[0].shape) == [batch, seq, heads * dim]:
        return flat.inputs[0]
    return emit(node, "Reshape", [inner, integers(node.graph, [0, 0, heads * dim])], [batch, seq, heads * dim])


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
        return portable.waves(table, angles(near), table.outputs[0].dtype)
    both = [angles(near), angles(attribute(table, "far_frequencies"))]
    stack = emit(table, "Concat", both, [2 * count, len(near)], axis=0)
    number = emit(table, "Cast", [portable.is_far(table)], [], dtype=ir.DataType.INT64, to=int(ir.DataType.INT64))
    number = emit(table, "Reshape", [number, integers(table.graph, [1])], [1])
    skipped = emit(table, "Mul", [number, integers(table.graph, [count])], [1])
    mask = next(v for v in table.graph.inputs if v.name == "attention_mask")
    length = emit(table, "Shape", [mask], [1], dtype=ir.DataType.INT64, start=1, end=2)
    bounds = [skipped, emit(table, "Add", [skipped, length], [1]), integers(table.graph, [0])]
    caches = portable.waves(table, stack, table.outputs[0].dtype)
    return [emit(table, "Slice", [cache, *bounds], ["total", len(near)]) for cache in caches]


def rotary_embedding(node: ir.Node) -> None:
    """RotaryEmbedding over x [B, S, H * D], position_ids, cos and sin [positions, R / 2]."""
    x, table = node.inputs[0], fixed_table(node)
    if table is None:
        portable.rotary_embedding(node)
        return
    (batch, heads, seq, dim), width = x.shape, rotary_width(node)
    partial = {} if width == dim else {"num_heads": heads, "rotary_embedding_dim": width}
    partial |= {"interleaved": 1} if attribute(node, "interleaved") else {}
    operands = [tokens_first(node, x), table.inputs[0], *rotary_caches(table)]
    out = emit(node, "RotaryEmbedding", operands, [batch, seq, heads * dim], CONTRIB, **partial)
    out = emit(node, "Reshape", [out, integers(node.graph, [0, 0, heads, dim])], [batch, seq, heads, dim])
    replace(node, [emit(node, "Transpose", [out], x.shape, perm=[0, 2, 1, 3])])


def packed(node: ir.Node, streams: list[ir.Value]) -> list[ir.Value | None]:
    """q, k and v from one product: that which they are parts of, or one in place of three Linear ops that read the same
    input and feed nothing else."""
    pieces = [last_axis_slice(x) for x in streams]
    if None not in pieces and len({x for x, *_ in pieces}) == 1:
        whole, edges = pieces[0][0], [edge for _, *piece in pieces for edge in piece]
        if edges[0] == 0 and edges[1:5:2] == edges[2::2] and edges[5] == whole.shape[-1]:
            return [whole, None, None]
    linears = [produced_by(x, "Linear", DOMAIN) for x in streams]
    if None in linears or any(len(n.outputs[0].uses()) != 1 for n in linears):
        return streams
    if len({(n.inputs[0], len(n.inputs)) for n in linears}) != 1:
        return streams
    operands = []
    for same in list(zip(*(n.inputs for n in linears)))[1:]:
        weights = [produced_by(v, "Weight", DOMAIN) for v in same]
        if None in weights or any({"offset", "rows", "transposed"} & set(w.attributes) for w in weights):
            return streams
        shape = [sum(v.shape[0] for v in same), *list(same[0].shape)[1:]]
        operands.append(
            emit(
                node,
                "Weight",
                [],
                shape,
                DOMAIN,
                same[0].dtype,
                parts=[p for w in weights for p in attribute(w, "parts")],
            )
        )
    x = linears[0].inputs[0]
    return [emit(node, "Linear", [x, *operands], [*list(x.shape)[:2], operands[0].shape[0]], DOMAIN), None, None]


def group_query_attention(
    node: ir.Node, streams: Sequence[ir.Value | None], caches: Sequence[ir.Value] = (), interleaved: int = 0
) -> None:
    """Attention over q, k, v [B, S, heads * D], or over all three in the first; rotated by cos and sin caches if given."""
    graph, (q, k, _, past_k, past_v, mask, sinks, _) = node.graph, portable.attention_inputs(node)
    (batch, heads, seq, dim), kv, int32 = q.shape, k.shape[1], ir.DataType.INT32
    scalar = constant(graph, np.array(1, np.int64))
    ones = emit(
        node, "Sub", [emit(node, "ReduceSum", [mask, integers(graph, [1])], [batch], keepdims=0), scalar], [batch]
    )
    lengths = emit(node, "Cast", [ones], [batch], dtype=int32, to=int(int32))
    size = emit(node, "Gather", [emit(node, "Shape", [mask], [2], dtype=ir.DataType.INT64), scalar], [], axis=0)
    total = emit(node, "Cast", [size], [], dtype=int32, to=int(int32))
    attributes = {"softcap": cap} if (cap := attribute(node, "softcap")) else {}
    if interleaved:
        attributes["rotary_interleaved"] = 1
    out, *present = emit_many(
        node,
        "GroupQueryAttention",
        [
            *streams,
            past_k,
            past_v,
            lengths,
            total,
            *(caches or (None, None)),
            *([None, None, sinks] if sinks is not None else []),
        ],
        [[batch, seq, heads * dim], node.outputs[1].shape, node.outputs[2].shape],
        CONTRIB,
        [q.dtype] * 3,
        num_heads=heads,
        kv_num_heads=kv,
        scale=attribute(node, "scale"),
        local_window_size=attribute(node, "window", -1),
        do_rotary=int(bool(caches)),
        **attributes,
    )
    replace(
        node, [emit(node, "Reshape", [out, integers(graph, [0, 0, heads, dim])], [batch, seq, heads, dim]), *present]
    )


def is_multi_head(node: ir.Node) -> bool:
    """Whether MultiHeadAttention computes all that the node says: no past, as many key heads as query heads, and no more than
    a scale, a mask and a bias."""
    q, k, v, past, _, _, sinks, _ = portable.attention_inputs(node)
    plain = not attribute(node, "window") and not attribute(node, "softcap") and sinks is None and past is None
    return plain and q.shape[1] == k.shape[1] == v.shape[1]


def multi_head_attention(node: ir.Node) -> None:
    """Attention without a past; `mask` as padding of the keys."""
    q, k, v, _, _, mask, _, bias = portable.attention_inputs(node)
    (batch, heads, seq, _), dim, int32 = q.shape, v.shape[3], ir.DataType.INT32
    padding = None if mask is None else emit(node, "Cast", [mask], mask.shape, dtype=int32, to=int(int32))
    operands = [*(tokens_first(node, x) for x in (q, k, v)), None, padding, bias]
    while operands[-1] is None:
        operands.pop()
    settings = {"unidirectional": 1} if attribute(node, "causal", 1) else {}
    shape, scale = [batch, seq, heads * dim], attribute(node, "scale")
    out = emit(node, "MultiHeadAttention", operands, shape, CONTRIB, num_heads=heads, scale=scale, **settings)
    replace(node, [emit(node, "Reshape", [out, integers(node.graph, [0, 0, heads, dim])], [batch, seq, heads, dim])])
