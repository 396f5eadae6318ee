"""Quantise the weights of Linear ops in blocks along the input by GPTQ: rounding errors are made up for on a text's activations.

Invariant: the form of quantize_rtn's result. Layers are quantised one after the other, each on what the quantised ones before it
compute. Embeddings that are no head, and experts, are rounded to nearest. Equal on machines whose float32 products are equal;
elsewhere as good, and not the same bytes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxmake.model.calibrated import quantize_layers
from onnxmake.model.gptq import gptq, order_of
from onnxmake.model.options import CALIBRATED, CalibratedOptions

ENVIRONMENT = "cpu"
READS = CALIBRATED
MEMORY_MB = 4000


@dataclass(frozen=True)
class Options(CalibratedOptions):
    """As for every quantiser that is calibrated, and of the Hessian."""

    damping: float = 0.01  # added to the diagonal of the Hessian, as a share of its mean
    act_order: bool = False  # the columns that matter most first


def run(src: Path, out: Path, o: Options) -> None:
    def rounding(gram: np.ndarray) -> Callable:
        return functools.partial(gptq, order_of(gram, o.damping, o.act_order))

    quantize_layers(src, out, o, rounding)
