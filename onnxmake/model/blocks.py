"""Block-quantised products and look-ups: what every weight-only quantiser turns Linear and Gather into."""

import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.experts import alternating, mixture, parts, routed
from onnxmake.model.graph import (
    CONTRIB,
    DOMAIN,
    attribute,
    attributes,
    emit,
    emit_many,
    integers,
    produced_by,
    prune,
    replace,
)


def find_head(graph: ir.Graph) -> ir.Node | None:
    """The Linear op behind the logits, looking through operations on single values such as a soft cap."""
    value = graph.outputs[0]
    while (
        (node := value.producer()) is not None
        and node.domain == ""
        and node.op_type in {"Mul", "Div", "Tanh", "Cast", "Add"}
    ):
        value = next((v for v in node.inputs if v.shape is not None and v.shape.rank() == 3), node.inputs[0])
    return node if node is not None and node.op_type == "Linear" and node.domain == DOMAIN else None


def _reference(before: ir.Node, weight: ir.Node, bits: int, block: int, symmetric: bool) -> list[ir.Value]:
    """packed [N, blocks, block * bits / 8], scales [N, blocks] and, if asymmetric, zero points [N, ceil(blocks * bits
    / 8)] of a weight [N, K]."""
    rows, width = weight.outputs[0].shape
    blocks = math.ceil(width / block)
    shapes = [[rows, blocks, block * bits // 8], [rows, blocks]] + (
        [] if symmetric else [[rows, math.ceil(blocks * bits / 8)]]
    )
    byte = ir.DataType.UINT8
    return list(
        emit_many(
            before,
            "QuantizedWeight",
            [],
            shapes,
            DOMAIN,
            [byte, weight.outputs[0].dtype, byte],
            **attributes(weight),
            bits=bits,
            block_size=block,
            symmetric=int(symmetric),
        )
    )


def quantize_linear(node: ir.Node, bits: int, block: int, symmetric: bool, accuracy_level: int) -> int:
    """Linear -> MatMulNBits. 0 where the weight is no plain reference."""
    x, value, *bias = node.inputs
    weight = produced_by(value, "Weight", DOMAIN)
    if weight is None:
        return 0
    rows, width = value.shape
    packed, scales, *zeros = _reference(node, weight, bits, block, symmetric)
    operands = [x, packed, scales, *(zeros or ([None] if bias else [])), *([None, *bias] if bias else [])]
    out = emit(
        node,
        "MatMulNBits",
        operands,
        node.outputs[0].shape,
        CONTRIB,
        K=width,
        N=rows,
        bits=bits,
        block_size=block,
        accuracy_level=accuracy_level,
    )
    replace(node, [out])
    return 1


def quantize_experts(node: ir.Node, bits: int, block: int, accuracy_level: int) -> int:
    """Experts -> QMoE, symmetric. 0 where the op cannot take them: no plain references, or a width that blocks do not divide."""
    hidden, _, _, gate_up, down, *biases = parts(node)
    weights = [produced_by(value, "Weight", DOMAIN) for value in (gate_up, down)]
    if None in weights or any(value.shape[2] % block for value in (gate_up, down)):
        return 0
    first = alternating(node, weights[0])
    if first is None:
        return 0
    references = [first, attributes(weights[1])]
    stacks = []
    for value, reference in zip((gate_up, down), references):
        experts, rows, width = value.shape
        shapes = [[experts, rows, width * bits // 8], [experts, rows, width // block]]
        quantised = {"bits": bits, "block_size": block, "symmetric": 1}
        types = [ir.DataType.UINT8, value.dtype]
        stacks.append(emit_many(node, "QuantizedWeight", [], shapes, DOMAIN, types, **reference, **quantised))
    scores, total, settings = routed(node)
    settings |= {"expert_weight_bits": bits, "block_size": block, "accuracy_level": accuracy_level}
    operands = [hidden, scores, *stacks[0], biases[0], *stacks[1], biases[1]]
    replace(node, [mixture(node, "QMoE", operands, settings, total)])
    return 1


def quantize_gather(node: ir.Node, bits: int, block: int, symmetric: bool) -> int:
    """Gather(weight, ids) -> GatherBlockQuantized, which reads the same bytes as a MatMulNBits of the same weight.

    0 where it is a small table of something else than tokens, whose width blocks do not divide, or a stack of matrices.
    """
    value, ids = node.inputs
    if value.shape.rank() != 2:
        return 0
    rows, width = value.shape
    if width % block and ids.name != "input_ids":
        return 0
    if width % block:
        raise UnsupportedError(
            f"The embedding is {width} wide, which block_size {block} does not divide.",
            "A look-up reads whole blocks only.",
            'Choose a block_size that divides it, or embeddings = "keep".',
        )
    packed, scales, *zeros = _reference(node, value.producer(), bits, block, symmetric)
    flat = emit(node, "Reshape", [packed, integers(node.graph, [rows, width * bits // 8])], [rows, width * bits // 8])
    out = emit(
        node,
        "GatherBlockQuantized",
        [flat, ids, scales, *zeros],
        node.outputs[0].shape,
        CONTRIB,
        dtype=scales.dtype,
        bits=bits,
        block_size=block,
        gather_axis=0,
        quantize_axis=1,
    )
    replace(node, [out])
    return 1


def quantize(graph: ir.Graph, bits: Mapping[str, int], block: int, symmetric: bool, accuracy_level: int) -> int:
    """Every Linear, mixture of experts and look-up whose weight is a reference, in place. Returns how many.

    `bits` for linear, lm_head, experts and embeddings, 0 for those that stay; without embeddings, these are as a head that is
    tied to them, or else as linear. A Linear that is told its bits has these.
    """
    head, count = find_head(graph), 0
    tied = None if head is None else head.inputs[1]
    same = bits["linear"] if head is None else attribute(head, "bits", bits["lm_head"])
    for node in [n for n in graph if n.op_type == "Linear" and n.domain == DOMAIN]:
        if number := attribute(node, "bits", bits["lm_head"] if node is head else bits["linear"]):
            count += quantize_linear(node, number, block, symmetric, accuracy_level)
    for node in [n for n in graph if n.op_type == "Experts" and n.domain == DOMAIN]:
        if number := bits["experts"]:
            count += quantize_experts(node, number, block, accuracy_level)
    for node in [n for n in graph if n.op_type == "Gather" and produced_by(n.inputs[0], "Weight", DOMAIN)]:
        if number := bits.get("embeddings", same if node.inputs[0] is tied else bits["linear"]):
            count += quantize_gather(node, number, block, symmetric)
    prune(graph)
    return count
