"""Quantise the weights of Linear ops and embeddings to 2, 4 or 8 bits in blocks along the input, rounding to nearest.

Invariant: bytes equal those of onnxruntime's own quantiser; activations and other weights keep their type. Matrix
products become MatMulNBits, experts QMoE, embedding look-ups GatherBlockQuantized; a tied head and embedding share one tensor where
their settings are the same.
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxmake.model.blocks import quantize
from onnxmake.model.options import BlockOptions

ENVIRONMENT = "cpu"


@dataclass(frozen=True)
class Options(BlockOptions):
    """As for every block quantiser."""


def rewrite(model: ir.Model, o: Options) -> int:
    return quantize(model.graph, o, "rtn")
