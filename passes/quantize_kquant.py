"""Quantise as quantize_rtn does, with scales and zero points searched for: an error counts by the size of its value.

Invariant: the weighted error of no block is above that of rounding to nearest. llama.cpp's k-quants, with integer zero points.
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxmake.model.blocks import quantize
from onnxmake.model.options import BlockOptions

ENVIRONMENT = "cpu"


@dataclass(frozen=True)
class Options(BlockOptions):
    """As for every block quantiser, zero points by default."""

    symmetric: bool = False


def rewrite(model: ir.Model, o: Options) -> int:
    return quantize(model.graph, o, "kquant")
