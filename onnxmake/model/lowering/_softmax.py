"""Attention in standard ops: products, a softmax, and which keys a query sees."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, constant, emit, integers, replace
from onnxmake.model.lowering._values import floats, size


def attention_inputs(node: ir.Node) -> list[ir.Value | None]:
    """q, k, v, past k, past v, mask, sinks, bias; None for those that are not there."""
    return [*node.inputs, *[None] * 8][:8]


def _visible(node: ir.Node, q: ir.Value, keys: ir.Value, mask: ir.Value | None) -> ir.Value | None:
    """Bool [B or 1, 1, 1, S or 1, total].

    Which keys each query sees; None: all. Written out per layer; equal ones are merged after lowering.
    """
    graph, boolean, seen = node.graph, ir.DataType.BOOL, None
    if attribute(node, "causal", 1):
        scalar = lambda i: constant(graph, np.array(i, np.int64))  # noqa: E731
        total = size(node, mask, 1) if mask is not None else size(node, keys, 2)
        before = emit(node, "Sub", [total, size(node, q, 2)], [])
        row = emit(node, "Range", [before, total, scalar(1)], ["sequence"])
        column = emit(node, "Range", [scalar(0), total, scalar(1)], ["total"])
        rows = emit(node, "Unsqueeze", [row, integers(graph, [1])], ["sequence", 1])
        columns = emit(node, "Unsqueeze", [column, integers(graph, [0])], [1, "total"])
        seen = emit(node, "LessOrEqual", [columns, rows], ["sequence", "total"], dtype=boolean)
        if window := attribute(node, "window"):
            distance = emit(node, "Sub", [rows, columns], seen.shape)
            near = emit(node, "Less", [distance, scalar(window)], seen.shape, dtype=boolean)
            seen = emit(node, "And", [seen, near], seen.shape)
    if mask is None:
        return seen
    flags = emit(node, "Cast", [mask], mask.shape, dtype=boolean, to=int(boolean))
    kept = emit(node, "Unsqueeze", [flags, integers(graph, [1, 2, 3])], [mask.shape[0], 1, 1, 1, "total"])
    return kept if seen is None else emit(node, "And", [kept, seen], [mask.shape[0], 1, 1, "sequence", "total"])


def attention(node: ir.Node) -> None:
    graph, (q, k, v, past_k, past_v, mask, sinks, bias) = node.graph, attention_inputs(node)
    (batch, heads, seq, dim), kv, width = q.shape, k.shape[1], v.shape[3]
    groups, keys, values, present = heads // kv, k, v, []
    if past_k is not None:
        present = [
            emit(node, "Concat", [past, new], [batch, kv, "total", new.shape[3]], axis=2)
            for past, new in ((past_k, k), (past_v, v))
        ]
        keys, values = present
    total = keys.shape[2]
    visible = _visible(node, q, keys, mask)
    keys, values = (
        emit(node, "Unsqueeze", [t, integers(graph, [2])], [batch, kv, 1, total, t.shape[3]]) for t in (keys, values)
    )
    queries = emit(node, "Reshape", [q, integers(graph, [0, kv, groups, -1, dim])], [batch, kv, groups, seq, dim])
    shape = [batch, kv, groups, seq, total]
    turned = emit(node, "Transpose", [keys], [batch, kv, 1, dim, total], perm=[0, 1, 2, 4, 3])
    scores = emit(node, "MatMul", [queries, turned], shape)
    scores = emit(node, "Mul", [scores, floats(node, attribute(node, "scale"), q)], shape)
    if cap := attribute(node, "softcap"):
        limit = floats(node, cap, q)
        ratio = emit(node, "Div", [scores, limit], shape)
        scores = emit(node, "Mul", [emit(node, "Tanh", [ratio], shape), limit], shape)
    if bias is not None:  # [B, 1 or H, S, total]
        tail = list(bias.shape)[2:]
        if bias.shape[1] == 1:
            grouped = emit(node, "Unsqueeze", [bias, integers(graph, [2])], [batch, 1, 1, *tail])
        else:
            lengths = emit(node, "Shape", [bias], [2], dtype=ir.DataType.INT64, start=2)
            target = emit(node, "Concat", [integers(graph, [0, kv, groups]), lengths], [5], axis=0)
            grouped = emit(node, "Reshape", [bias, target], [batch, kv, groups, *tail])
        scores = emit(node, "Add", [scores, grouped], shape)
    if visible is not None:
        scores = emit(node, "Where", [visible, scores, floats(node, np.finfo(np.float16).min, q)], shape, dtype=q.dtype)
    if sinks is not None:  # one more logit per head that takes probability and gives nothing
        column = emit(node, "Reshape", [sinks, integers(graph, [1, kv, groups, 1, 1])], [1, kv, groups, 1, 1])
        largest = emit(node, "ReduceMax", [scores, integers(graph, [-1])], [*shape[:4], 1], keepdims=1)
        target = emit(node, "Shape", [largest], [5], dtype=ir.DataType.INT64)
        sink = emit(node, "Expand", [column, target], [*shape[:4], 1])
        scores = emit(node, "Concat", [scores, sink], [*shape[:4], "total + 1"], axis=-1)
    weights = emit(node, "Softmax", [scores], scores.shape, axis=-1)
    if sinks is not None:
        bounds = [integers(graph, [i]) for i in (0, -1, -1)]
        weights = emit(node, "Slice", [weights, *bounds], shape)
    mixed = emit(node, "MatMul", [weights, values], [batch, kv, groups, seq, width])
    flat = emit(node, "Reshape", [mixed, integers(graph, [0, heads, -1, width])], [batch, heads, seq, width])
    replace(node, [emit(node, "Transpose", [flat], [batch, seq, heads, width], perm=[0, 2, 1, 3]), *present])
