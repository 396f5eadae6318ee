"""ONNX Runtime's CPU provider.

GroupQueryAttention, fused norms, matrix products that read [out, in] weights as they are stored.
"""

from collections.abc import Sequence

import onnx_ir as ir

from onnxmake.model.experts import alternating, dense, mixture, parts, routed
from onnxmake.model.graph import CONTRIB, DOMAIN, array, attribute, emit, emit_many, produced_by, replace
from onnxmake.model.lowering import _attention as kernels
from onnxmake.model.lowering import _rotation as rotary
from onnxmake.model.lowering import portable
from onnxmake.model.lowering._norms import norm_weight
from onnxmake.model.lowering._projection import packed
from onnxmake.model.lowering._recurrent import causal_convolution, linear_attention
from onnxmake.model.lowering._softmax import attention_inputs
from onnxmake.model.shapes import same


def linear(node: ir.Node) -> None:
    x, weight, *bias = node.inputs
    out = node.outputs[0].shape
    product = emit(node, "FusedMatMul", [x, weight], out, CONTRIB, transB=1)
    replace(node, [emit(node, "Add", [product, *bias], out) if bias else product])


def rms_norm(node: ir.Node) -> None:
    """SimplifiedLayerNormalization, with the residual addition in front of it where there is one."""
    x, operands, epsilon = node.inputs[0], [norm_weight(node)], attribute(node, "epsilon")
    if not _with_residual(node, "SkipSimplifiedLayerNormalization", operands, epsilon):
        settings = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
        replace(node, [emit(node, "SimplifiedLayerNormalization", [x, *operands], x.shape, **settings)])


def layer_norm(node: ir.Node) -> None:
    """LayerNormalization, with the residual addition in front of it where there is one."""
    operands = [norm_weight(node), *(node.inputs[2:] or [None])]
    if not _with_residual(node, "SkipLayerNormalization", operands, attribute(node, "epsilon")):
        portable.layer_norm(node)


def plain_layer_norm(node: ir.Node) -> None:
    """One that has no module behind it, such as a norm without parameters."""
    x, *operands = node.inputs
    last = x.shape is not None and attribute(node, "axis", -1) in (-1, x.shape.rank() - 1)
    if last and not any(value.uses() for value in node.outputs[1:]):
        _with_residual(node, "SkipLayerNormalization", operands, attribute(node, "epsilon", 1e-5))


def _with_residual(node: ir.Node, op: str, operands: Sequence[ir.Value | None], epsilon: float) -> bool:
    """Replace norm, addition, and the bias of a product that is added, by one op, which hands out the sum, too."""
    x, shape = node.inputs[0], node.inputs[0].shape
    add = produced_by(x, "Add")
    if add is None or len(shape) != 3 or not all(same(v.shape, shape) for v in add.inputs):
        return False
    streams, bias = _without_bias(add)
    inputs = [*streams, *operands, *([bias] if bias is not None else [])]
    while inputs[-1] is None:
        inputs.pop()
    normed, _, _, total = emit_many(add, op, inputs, [shape, None, None, shape], CONTRIB, epsilon=epsilon)
    replace(node, [normed])
    replace(add, [total])
    return True


def _without_bias(add: ir.Node) -> tuple[list[ir.Value], ir.Value | None]:
    """What is added, one of it without its bias where it is a product that feeds nothing else, and the bias."""
    streams = list(add.inputs)
    for i, value in enumerate(streams):
        product = produced_by(value, "Linear", DOMAIN)
        if product is not None and len(product.inputs) == 3 and len(value.uses()) == 1:
            x, weight, bias = product.inputs
            streams[i] = emit(product, "Linear", [x, weight], value.shape, DOMAIN)
            return streams, bias
    return streams, None


def attention(node: ir.Node) -> None:
    """GroupQueryAttention over a past, with one packed product and the rotation inside where it can be; without a past
    MultiHeadAttention."""
    q, k, v, past, _, mask, _, bias = attention_inputs(node)
    if kernels.is_multi_head(node):
        kernels.multi_head_attention(node)
        return
    lacking = past is None or mask is None
    if lacking or q.shape[3] != v.shape[3] or bias is not None or not attribute(node, "causal", 1):
        portable.attention(node)
        return
    rotation, caches, interleaved = rotary.rotation(q, k), [], 0
    if rotation:
        q, k, caches = rotation[0].inputs[0], rotation[1].inputs[0], rotary.rotary_caches(rotation[2])
        interleaved = attribute(rotation[0], "interleaved")
    kernels.group_query_attention(node, packed(node, [q, k, v]), caches, interleaved)


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


def sigmoid(node: ir.Node) -> None:
    """x sigmoid(a x), SiLU where a is 1, is one op. Ramachandran et al. 2017, "Searching for Activation Functions"."""
    wave, (inner,) = node.outputs[0], node.inputs
    users = wave.uses()
    product = users[0].node if len(users) == 1 else None
    if product is None or product.op_type != "Mul" or wave.is_graph_output():
        return
    x = next((v for v in product.inputs if v is not wave), None)
    scaled, factor = produced_by(inner, "Mul"), None
    if x is inner:
        factor = 1.0
    elif scaled is not None and x in scaled.inputs:
        known = array(next((v for v in scaled.inputs if v is not x), None))
        factor = float(known.item()) if known is not None and known.size == 1 else None
    if x is not None and factor is not None:
        replace(product, [emit(product, "QuickGelu", [x], x.shape, CONTRIB, alpha=factor)])
        node.graph.remove(node, safe=True)


TABLE = {
    **portable.TABLE,
    "Experts": experts,
    "Linear": linear,
    "RMSNorm": rms_norm,
    "LayerNorm": layer_norm,
    "RotaryEmbedding": rotary.rotary_embedding,
    "Attention": attention,
    "LinearAttention": linear_attention,
    "::Conv": causal_convolution,
    "::LayerNormalization": plain_layer_norm,
    "::Sigmoid": sigmoid,
}
PROVIDER_OPTIONS: list[dict[str, dict[str, str]]] = []
