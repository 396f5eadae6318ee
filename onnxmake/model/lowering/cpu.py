"""ONNX Runtime's CPU provider.

GroupQueryAttention, fused norms, matrix products that read [out, in] weights as they are stored.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmake.model.experts import alternating, dense, mixture, parts, routed
from onnxmake.model.graph import CONTRIB, DOMAIN, attribute, constant, emit, emit_many, integers, produced_by, replace
from onnxmake.model.lowering import portable


def linear(node: ir.Node) -> None:
    x, weight, *bias = node.inputs
    out = node.outputs[0].shape
    product = emit(node, "FusedMatMul", [x, weight], out, CONTRIB, transB=1)
    replace(node, [emit(node, "Add", [product, *bias], out) if bias else product])


def rms_norm(node: ir.Node) -> None:
    """SimplifiedLayerNormalization, with the residual addition in front of it where there is one."""
    x, operands, epsilon = node.inputs[0], [portable.norm_weight(node)], attribute(node, "epsilon")
    if not _with_residual(node, "SkipSimplifiedLayerNormalization", operands, epsilon):
        settings = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
        replace(node, [emit(node, "SimplifiedLayerNormalization", [x, *operands], x.shape, **settings)])


def layer_norm(node: ir.Node) -> None:
    """LayerNormalization, with the residual addition in front of it where there is one."""
    operands = [portable.norm_weight(node), *node.inputs[2:]]
    if not _with_residual(node, "SkipLayerNormalization", operands, attribute(node, "epsilon")):
        portable.layer_norm(node)


def _with_residual(node: ir.Node, op: str, operands: Sequence[ir.Value], epsilon: float) -> bool:
    """Replace norm and addition by one op, which hands out the sum, too."""
    x, shape = node.inputs[0], node.inputs[0].shape
    add = produced_by(x, "Add")
    if add is None or len(shape) != 3 or any(v.shape != shape for v in add.inputs):
        return False
    normed, _, _, total = emit_many(
        add, op, [*add.inputs, *operands], [shape, None, None, shape], CONTRIB, epsilon=epsilon
    )
    replace(node, [normed])
    replace(add, [total])
    return True


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
    """The RotaryTable of a rotation, if constant caches can stand for it: one set of frequencies.

    Positions must be the graph's position_ids, which stay within the caches.
    """
    table = produced_by(turn.inputs[1], "RotaryTable", DOMAIN)
    fixed = table is not None and "threshold" not in table.attributes and table.inputs[0].name == "position_ids"
    return table if fixed else None


def _rotation(q: ir.Value, k: ir.Value) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """The rotations of q and k and their table, if the attention op can do them: same table, a width it takes.

    It counts positions itself, as position_ids do.
    """
    turns = [produced_by(x, "RotaryEmbedding", DOMAIN) for x in (q, k)]
    if None in turns or turns[0].inputs[1:] != turns[1].inputs[1:]:
        return None
    if attribute(turns[0], "interleaved") != attribute(turns[1], "interleaved"):
        return None
    table = fixed_table(turns[0])
    if table is None or portable.rotary_width(turns[0]) % 16 or q.shape[3] % 16:
        return None
    return turns[0], turns[1], table


def rotary_caches(table: ir.Node) -> list[ir.Value]:
    """cos and sin [positions, R/2], computed from constants alone.

    The runtime does it once, at load, and the file stays small.
    """
    frequencies, count = attribute(table, "frequencies"), attribute(table, "positions")
    first, end, step, row = (
        constant(table.graph, np.array(values, np.float32)) for values in (0, count, 1, frequencies)
    )
    positions = emit(
        table, "Unsqueeze", [emit(table, "Range", [first, end, step], [count]), integers(table.graph, [1])], [count, 1]
    )
    return portable.waves(
        table, emit(table, "Mul", [positions, row], [count, len(frequencies)]), table.outputs[0].dtype
    )


def _packed(node: ir.Node, streams: list[ir.Value]) -> list[ir.Value | None]:
    """q, k and v from one product where three Linear ops read the same input and feed nothing else."""
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


def attention(node: ir.Node) -> None:
    """With one packed product and the rotation inside, where it can be."""
    q, k, v, past, _, mask, _, bias = portable.attention_inputs(node)
    if q.shape[3] != v.shape[3] or past is None or mask is None or bias is not None or not attribute(node, "causal", 1):
        portable.attention(node)
        return
    rotation, caches, interleaved = _rotation(q, k), [], 0
    if rotation:
        q, k, caches = rotation[0].inputs[0], rotation[1].inputs[0], rotary_caches(rotation[2])
        interleaved = attribute(rotation[0], "interleaved")
    group_query_attention(node, _packed(node, [tokens_first(node, x) for x in (q, k, v)]), caches, interleaved)


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


def experts(node: ir.Node) -> None:
    """MoE, where gate and up rows can be made to alternate."""
    _, _, _, gate_up, down, first_bias, second_bias = parts(node)
    weight = produced_by(gate_up, "Weight", DOMAIN)
    reference = None if weight is None else alternating(node, weight)
    if reference is None:
        dense(node)
        return
    scores, total, attributes = routed(node)
    stack = emit(node, "Weight", [], gate_up.shape, DOMAIN, gate_up.dtype, **reference)
    operands = [node.inputs[0], scores, stack, first_bias, down, second_bias]
    replace(node, [mixture(node, "MoE", operands, attributes, total)])


TABLE = {
    **portable.TABLE,
    "Experts": experts,
    "Linear": linear,
    "RMSNorm": rms_norm,
    "LayerNorm": layer_norm,
    "Attention": attention,
}
PROVIDER_OPTIONS: list[dict[str, dict[str, str]]] = []
