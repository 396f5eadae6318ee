"""Quantise as quantize_rtn does, with scales and zero points found by half-quadratic splitting: outliers count for less.

Invariant: as quantize_rtn's, but for the bytes. Badri and Shaji 2023, with integer zero points.
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
    return quantize(model.graph, o, "hqq")
