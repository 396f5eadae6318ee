"""ONNX Runtime's DirectML provider: q, k and v apart, rotations by position_ids in front of attention.

GenAI captures the graph there, which fails if a node needs the CPU: an op without a kernel becomes ops that have one.
"""

import math

import numpy as np
import onnx_ir as ir

from onnxmake.model.experts import dense
from onnxmake.model.graph import (
    CONTRIB,
    DOMAIN,
    attribute,
    attributes,
    constant,
    emit,
    integers,
    nodes,
    produced_by,
    replace,
)
from onnxmake.model.lowering import _attention as kernels
from onnxmake.model.lowering import cpu, portable
from onnxmake.model.lowering._rotation import rotary_embedding
from onnxmake.model.lowering._softmax import attention_inputs
from onnxmake.model.lowering._values import floats
from onnxmake.model.lowering.cuda import experts_unproven, refuse_2_bits


def attention(node: ir.Node) -> None:
    """GroupQueryAttention where the layer asks for no more than scale and lengths: the kernel drops the rest in silence."""
    (q, _, v, past, _, _, sinks, bias) = attention_inputs(node)
    window, reach = attribute(node, "window"), [attribute(t, "positions") for t in nodes(node.graph, "RotaryTable")]
    unread = [
        window and not (reach and window >= max(reach)),
        attribute(node, "softcap"),
        sinks is not None,
        bias is not None,
        not attribute(node, "causal", 1),
        past is None,
        q.shape[3] != v.shape[3],
    ]
    if bias is None and kernels.is_multi_head(node):
        kernels.multi_head_attention(node)
        return
    if any(unread):
        portable.attention(node)
        return
    for turn in (produced_by(x, "RotaryEmbedding", DOMAIN) for x in node.inputs[:2]):
        if turn is not None:
            rotary_embedding(turn)
    kernels.group_query_attention(node, [kernels.tokens_first(node, x) for x in node.inputs[:3]])


def matmul_nbits(node: ir.Node) -> None:
    """The bias added behind it, which the kernel refuses inside."""
    refuse_2_bits(node)
    x, packed, scales, zeros, _, bias = [*node.inputs, None, None, None][:6]
    settings = {name: value for name, value in attributes(node).items() if name != "accuracy_level"}
    operands, shape = [x, packed, scales, *([] if zeros is None else [zeros])], node.outputs[0].shape
    out = emit(node, "MatMulNBits", operands, shape, CONTRIB, **settings)
    replace(node, [out if bias is None else emit(node, "Add", [out, bias], shape)])


def gather_block_quantized(node: ir.Node) -> None:
    """data [V, K * bits / 8], ids [B, S], scales [V, blocks], zeros [V, blocks * bits / 8]? -> [B, S, K].

    The rows are looked up as they are stored, and (code - zero) * scale is computed of those found.
    """
    refuse_2_bits(node)
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

    zero = codes(zeros[0], 1) if zeros else floats(node, 2 ** (bits - 1), out)
    scale = emit(node, "Unsqueeze", [look_up(scales), last], [*ids.shape, blocks, 1])
    values = codes(data, size)
    values = emit(node, "Mul", [emit(node, "Sub", [values, zero], values.shape), scale], values.shape)
    replace(node, [emit(node, "Reshape", [values, integers(graph, [0, 0, blocks * size])], out.shape)])


TABLE = {
    **{
        op: rule for op, rule in cpu.TABLE.items() if op != "::Conv"
    },  # the runtime is older than its stateful operators
    "LinearAttention": portable.TABLE["LinearAttention"],
    "Experts": dense,
    "com.microsoft::QMoE": experts_unproven,
    "Attention": attention,
    "com.microsoft::MatMulNBits": matmul_nbits,
    "com.microsoft::GatherBlockQuantized": gather_block_quantized,
}
PROVIDER_OPTIONS: list[dict[str, dict[str, str]]] = [{"dml": {}}]
