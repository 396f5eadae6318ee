"""ONNX Runtime's DirectML provider: q, k and v apart, rotations by position_ids in front of attention.

GenAI captures the graph there, which fails if a node needs the CPU: an op without a kernel becomes ops that have one.
"""

import math

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.experts import dense
from onnxmake.model.graph import CONTRIB, DOMAIN, attribute, constant, emit, integers, nodes, produced_by, replace
from onnxmake.model.lowering import cpu, portable
from onnxmake.model.lowering.cuda import experts_unproven


def rotary_embedding(node: ir.Node) -> None:
    """RotaryEmbedding over x [B, S, H * D], position_ids, cos and sin [positions, R / 2]."""
    x, table = node.inputs[0], cpu.fixed_table(node)
    if table is None:
        portable.rotary_embedding(node)
        return
    (batch, heads, seq, dim), width = x.shape, portable.rotary_width(node)
    partial = {} if width == dim else {"num_heads": heads, "rotary_embedding_dim": width}
    partial |= {"interleaved": 1} if attribute(node, "interleaved") else {}
    operands = [cpu.tokens_first(node, x), table.inputs[0], *cpu.rotary_caches(table)]
    out = emit(node, "RotaryEmbedding", operands, [batch, seq, heads * dim], CONTRIB, **partial)
    out = emit(node, "Reshape", [out, integers(node.graph, [0, 0, heads, dim])], [batch, seq, heads, dim])
    replace(node, [emit(node, "Transpose", [out], x.shape, perm=[0, 2, 1, 3])])


def attention(node: ir.Node) -> None:
    """The kernel reads scale and lengths alone: what else the layer asks for would be dropped in silence."""
    (q, _, v, past, _, _, sinks, bias), reach = (
        portable.attention_inputs(node),
        [attribute(table, "positions") for table in nodes(node.graph, "RotaryTable")],
    )
    window = attribute(node, "window")
    asked = {
        f"a window of {window}": window and not (reach and window >= max(reach)),
        "a soft cap": attribute(node, "softcap"),
        "sinks": sinks is not None,
        "values of another width": q.shape[3] != v.shape[3],
    }
    if past is None or bias is not None or not attribute(node, "causal", 1):
        portable.attention(node)
        return
    if ignored := [name for name, there in asked.items() if there]:
        raise UnsupportedError(
            f"The attention of {node.outputs[1].name} has {ignored[0]}.",
            "DirectML's GroupQueryAttention ignores that.",
            'Choose device = "cpu" or "cuda"; or, for use without GenAI, device = "portable" under optimize.',
        )
    for turn in (produced_by(x, "RotaryEmbedding", DOMAIN) for x in node.inputs[:2]):
        if turn is not None:
            rotary_embedding(turn)
    cpu.group_query_attention(node, [cpu.tokens_first(node, x) for x in node.inputs[:3]])


def matmul_nbits(node: ir.Node) -> None:
    """The bias added behind it, which the kernel refuses inside."""
    x, packed, scales, zeros, _, bias = [*node.inputs, None, None, None][:6]
    attributes = {name: a.value for name, a in node.attributes.items() if name != "accuracy_level"}
    operands, shape = [x, packed, scales, *([] if zeros is None else [zeros])], node.outputs[0].shape
    out = emit(node, "MatMulNBits", operands, shape, CONTRIB, **attributes)
    replace(node, [out if bias is None else emit(node, "Add", [out, bias], shape)])


def gather_block_quantized(node: ir.Node) -> None:
    """data [V, K * bits / 8], ids [B, S], scales [V, blocks], zeros [V, blocks * bits / 8]? -> [B, S, K].

    The rows are looked up as they are stored, and (code - zero) * scale is computed of those found.
    """
    graph, (data, ids, scales, *zeros), bits = node.graph, node.inputs, attribute(node, "bits")
    out, last, blocks, size = node.outputs[0], integers(graph, [-1]), scales.shape[1], attribute(node, "block_size")
    if stored := produced_by(data, "Reshape"):  # of the whole table, which would be copied
        data = stored.inputs[0]

    def look_up(table: ir.Value) -> ir.Value:
        return emit(node, "Gather", [table, ids], [*ids.shape, *list(table.shape)[1:]], axis=0)

    def codes(table: ir.Value, size: int) -> ir.Value:
        """[B, S, blocks, size] numbers of `bits` bits, the low half of a byte before the high one."""
        found = look_up(table)
        count = math.prod(list(found.shape)[2:]) * 8 // bits // size
        if bits == 4:
            mask, four = (constant(graph, np.array(value, np.uint8)) for value in (15, 4))
            low = emit(node, "BitwiseAnd", [found, mask], found.shape)
            high = emit(node, "BitShift", [found, four], found.shape, direction="RIGHT")
            halves = [emit(node, "Unsqueeze", [half, last], [*found.shape, 1]) for half in (low, high)]
            found = emit(node, "Concat", halves, [*found.shape, 2], axis=-1)
        found = emit(node, "Reshape", [found, integers(graph, [0, 0, count, size])], [*ids.shape, count, size])
        if count > blocks:  # the last half of a byte
            bounds = [integers(graph, [i]) for i in (0, blocks, 2)]
            found = emit(node, "Slice", [found, *bounds], [*ids.shape, blocks, size])
        return emit(node, "Cast", [found], found.shape, dtype=out.dtype, to=int(out.dtype))

    zero = codes(zeros[0], 1) if zeros else portable.floats(node, 2 ** (bits - 1), out)
    scale = emit(node, "Unsqueeze", [look_up(scales), last], [*ids.shape, blocks, 1])
    values = codes(data, size)
    values = emit(node, "Mul", [emit(node, "Sub", [values, zero], values.shape), scale], values.shape)
    replace(node, [emit(node, "Reshape", [values, integers(graph, [0, 0, blocks * size])], out.shape)])


TABLE = {
    **cpu.TABLE,
    "Experts": dense,
    "com.microsoft::QMoE": experts_unproven,
    "RotaryEmbedding": rotary_embedding,
    "Attention": attention,
    "com.microsoft::MatMulNBits": matmul_nbits,
    "com.microsoft::GatherBlockQuantized": gather_block_quantized,
}
PROVIDER_OPTIONS: list[dict[str, dict[str, str]]] = [{"dml": {}}]
