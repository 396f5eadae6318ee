"""Block-quantised products and look-ups: what every weight-only quantiser turns Linear and Gather into."""

import math

import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.experts import alternating, mixture, parts, routed
from onnxmake.model.graph import (
    CONTRIB,
    DOMAIN,
    attributes,
    emit,
    emit_many,
    integers,
    nodes,
    produced_by,
    prune,
    replace,
)
from onnxmake.model.options import BlockOptions
from onnxmake.model.widths import ALLOCATED, widths


def _reference(before: ir.Node, weight: ir.Node, bits: int, o: BlockOptions, method: str) -> list[ir.Value]:
    """packed [N, blocks, block * bits / 8], scales [N, blocks] and, if asymmetric, zero points [N, ceil(blocks * bits
    / 8)] of a weight [N, K]."""
    rows, width = weight.outputs[0].shape
    blocks = math.ceil(width / o.block_size)
    shapes = [[rows, blocks, o.block_size * bits // 8], [rows, blocks]] + (
        [] if o.symmetric else [[rows, math.ceil(blocks * bits / 8)]]
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
            method=method,
            bits=bits,
            block_size=o.block_size,
            symmetric=int(o.symmetric),
        )
    )


def quantize_linear(node: ir.Node, bits: int, o: BlockOptions, method: str) -> int:
    """Linear -> MatMulNBits. 0 where the weight is no plain reference."""
    x, value, *bias = node.inputs
    weight = produced_by(value, "Weight", DOMAIN)
    if weight is None:
        return 0
    rows, width = value.shape
    packed, scales, *zeros = _reference(node, weight, bits, o, method)
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
        block_size=o.block_size,
        accuracy_level=o.accuracy_level,
    )
    replace(node, [out])
    return 1


def quantize_experts(node: ir.Node, bits: int, o: BlockOptions, method: str) -> int:
    """Experts -> QMoE, symmetric. 0 where the op cannot take them: no plain references, or a width that blocks do not divide."""
    (hidden, _, _, gate_up, down, *biases), block = parts(node), o.block_size
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
        quantised = {"method": method, "bits": bits, "block_size": block, "symmetric": 1}
        types = [ir.DataType.UINT8, value.dtype]
        stacks.append(emit_many(node, "QuantizedWeight", [], shapes, DOMAIN, types, **reference, **quantised))
    scores, total, settings = routed(node)
    settings |= {"expert_weight_bits": bits, "block_size": block, "accuracy_level": o.accuracy_level}
    operands = [hidden, scores, *stacks[0], biases[0], *stacks[1], biases[1]]
    replace(node, [mixture(node, "QMoE", operands, settings, total)])
    return 1


def quantize_gather(node: ir.Node, bits: int, o: BlockOptions, method: str) -> int:
    """Gather(weight, ids) -> GatherBlockQuantized, which reads the same bytes as a MatMulNBits of the same weight.

    0 where it is a small table of something else than tokens, whose width blocks do not divide, or a stack of matrices.
    """
    (value, ids), block = node.inputs, o.block_size
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
    packed, scales, *zeros = _reference(node, value.producer(), bits, o, method)
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


RULES = {"Linear": quantize_linear, "Experts": quantize_experts, "Gather": quantize_gather}


def quantize(graph: ir.Graph, o: BlockOptions, method: str) -> int:
    """Every Linear, mixture of experts and look-up whose weight is a reference, in place. Returns how many.

    `method` is a key of kernels.METHODS. Raises TargetError for lists of globs that cannot be meant, and UnsupportedError
    where an op that one of them claims cannot be quantised.
    """
    count, chosen = 0, widths(graph, o)
    for weight in nodes(graph, "Weight"):
        weight.attributes.pop(ALLOCATED, None)  # heeded
    for node, bits, claim in chosen:
        done = RULES[node.op_type](node, bits, o, method) if bits else 0
        if bits and claim and not done:
            raise UnsupportedError(
                f"{claim} cannot be quantised.",
                f"Its width is no multiple of block_size {o.block_size}, or the runtime has no op for it.",
                "Take it out of the list.",
            )
        count += done
    prune(graph)
    return count
