"""How much each product loses by being rounded."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model.layerwise import Grams, layerwise
from onnxmake.model.prequantized import read_logical
from onnxmake.model.quantisers.fitting import nearest
from onnxmake.model.reader import Reader
from onnxmake.model.segments import Key, Segment, Values, key_of
from onnxmake.model.stored import dequantized


@dataclass(frozen=True)
class Product:
    """A product's weight: values, and by which share of its output's energy rounding to the low bits changes it."""

    size: int
    loss: float


def measure(
    plain: ir.Model, checkpoint: Path, rows: np.ndarray, bits: int, block: int, symmetric: bool
) -> dict[Key, Product]:
    """Every product of the graph by what its weight is a reference to. `plain` is changed."""
    found: dict[Key, Product] = {}

    def visit(segment: Segment, weights: Values, grams: Grams) -> None:
        for name, activation in segment.products.items():
            weight, gram = weights[name], grams[activation]
            rounded = dequantized(*nearest(np.diag(gram), weight, bits, block, symmetric), block)
            energy = _energy(weight, gram)
            loss = _energy(rounded - weight, gram) / energy if energy else 0.0
            found[key_of(segment.references[name])] = Product(weight.size, loss)

    with ThreadPoolExecutor(1) as ahead:
        layerwise(plain, Reader(read_logical(checkpoint), ahead), rows, visit)
    return found


def _energy(weight: np.ndarray, gram: np.ndarray) -> float:
    """|W X|^2, for X^T X."""
    return float(np.vdot(weight @ gram, weight))
