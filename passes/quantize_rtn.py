"""Quantise the weights of Linear ops and embeddings to 4 or 8 bits in blocks along the input, rounding to nearest.

Invariant: bytes equal those of onnxruntime's own quantiser; activations and other weights keep their type. Matrix
products become MatMulNBits, experts QMoE, embedding look-ups GatherBlockQuantized; a tied head and embedding share one tensor where
their settings are the same.
"""

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxmake.model.blocks import find_head, quantize_experts, quantize_gather, quantize_linear
from onnxmake.model.graph import DOMAIN, produced_by, prune

ENVIRONMENT = "cpu"


@dataclass(frozen=True)
class Options:
    bits: Literal[4, 8] = 4
    block_size: Literal[16, 32, 64, 128, 256] = 32  # values that share a scale
    symmetric: bool = True  # False: a zero point per block; a little better, a little larger
    lm_head: Literal["same", "int4", "int8", "keep"] = "same"  # "keep": not quantised
    embeddings: Literal["same", "int4", "int8", "keep"] = "same"  # "same": as a tied head, or else as bits
    experts: Literal["same", "int4", "int8", "keep"] = "same"  # of mixtures; always symmetric
    accuracy_level: Literal[0, 1, 2, 3, 4] = (
        4  # of the product: 4 = int8 activations, 1 = float32, 0 = the runtime's choice
    )


def rewrite(model: ir.Model, o: Options) -> int:
    graph, count = model.graph, 0
    head = find_head(graph)
    tied = None if head is None else head.inputs[1]
    choice = {"same": o.bits, "int4": 4, "int8": 8, "keep": 0}
    head_bits = choice[o.lm_head]
    for node in [n for n in graph if n.op_type == "Linear" and n.domain == DOMAIN]:
        if bits := head_bits if node is head else o.bits:
            count += quantize_linear(node, bits, o.block_size, o.symmetric, o.accuracy_level)
    for node in [n for n in graph if n.op_type == "Experts" and n.domain == DOMAIN]:
        if bits := o.bits if o.experts == "same" else choice[o.experts]:
            count += quantize_experts(node, bits, o.block_size, o.accuracy_level)
    for node in [n for n in graph if n.op_type == "Gather" and produced_by(n.inputs[0], "Weight", DOMAIN)]:
        same = head_bits if node.inputs[0] is tied else o.bits
        if bits := same if o.embeddings == "same" else choice[o.embeddings]:
            count += quantize_gather(node, bits, o.block_size, o.symmetric)
    prune(graph)
    return count
