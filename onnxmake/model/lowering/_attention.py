"""Attention kernels of ONNX Runtime's own operators, which several devices have: what they take, and how it is laid out."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import (
    CONTRIB,
    attribute,
    constant,
    emit,
    emit_many,
    integers,
    produced_by,
    replace,
)
from onnxmake.model.lowering._softmax import attention_inputs


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


def group_query_attention(
    node: ir.Node, streams: Sequence[ir.Value | None], caches: Sequence[ir.Value] = (), interleaved: int = 0
) -> None:
    """Attention over q, k, v [B, S, heads * D], or over all three in the first; rotated by cos and sin caches if given."""
    graph, (q, k, _, past_k, past_v, mask, sinks, _) = node.graph, attention_inputs(node)
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
    q, k, v, past, _, _, sinks, _ = attention_inputs(node)
    plain = not attribute(node, "window") and not attribute(node, "softcap") and sinks is None and past is None
    return plain and q.shape[1] == k.shape[1] == v.shape[1]


def multi_head_attention(node: ir.Node) -> None:
    """Attention without a past; `mask` as padding of the keys."""
    q, k, v, _, _, mask, _, bias = attention_inputs(node)
    (batch, heads, seq, _), dim, int32 = q.shape, v.shape[3], ir.DataType.INT32
    padding = None if mask is None else emit(node, "Cast", [mask], mask.shape, dtype=int32, to=int(int32))
    operands = [*(tokens_first(node, x) for x in (q, k, v)), None, padding, bias]
    while operands[-1] is None:
        operands.pop()
    settings = {"unidirectional": 1} if attribute(node, "causal", 1) else {}
    shape, scale = [batch, seq, heads * dim], attribute(node, "scale")
    out = emit(node, "MultiHeadAttention", operands, shape, CONTRIB, num_heads=heads, scale=scale, **settings)
    replace(node, [emit(node, "Reshape", [out, integers(node.graph, [0, 0, heads, dim])], [batch, seq, heads, dim])])
