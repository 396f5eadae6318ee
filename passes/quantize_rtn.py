"""Quantise the weights of Linear ops and embeddings to 4 or 8 bits in blocks along the input, rounding to nearest.

Invariant: bytes equal those of onnxruntime's own quantiser; activations and other weights keep their type. Matrix
products become MatMulNBits, experts QMoE, embedding look-ups GatherBlockQuantized; a tied head and embedding share one tensor where
their settings are the same.
"""

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxmake.model.blocks import quantize

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
    choice = {"same": o.bits, "int4": 4, "int8": 8, "keep": 0}
    bits = {"linear": o.bits, "lm_head": choice[o.lm_head], "experts": choice[o.experts]}
    if o.embeddings != "same":
        bits["embeddings"] = choice[o.embeddings]
    return quantize(model.graph, bits, o.block_size, o.symmetric, o.accuracy_level)
