"""Quantise the weights of Linear ops in blocks along the input by AWQ: channels with large activations get finer steps.

Invariant: the form of quantize_rtn's result; norms and products in front of those that were scaled take the scale back. Layers are quantised one after the other, each on what the quantised ones before it
compute. Embeddings that are no head, and experts, are rounded to nearest. Equal on machines whose float32 products are equal;
elsewhere as good, and not the same bytes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxmake.model.awq import scale_channels
from onnxmake.model.calibrated import quantize_layers
from onnxmake.model.options import CALIBRATED, CalibratedOptions
from onnxmake.model.quantisers.fitting import nearest

ENVIRONMENT = "cpu"
READS = CALIBRATED
MEMORY_MB = 4000


@dataclass(frozen=True)
class Options(CalibratedOptions):
    """As for every quantiser that is calibrated."""


def run(src: Path, out: Path, o: Options) -> None:
    def rounding(gram: np.ndarray) -> Callable:
        return functools.partial(nearest, np.diag(gram))

    quantize_layers(src, out, o, rounding, scale_channels)
