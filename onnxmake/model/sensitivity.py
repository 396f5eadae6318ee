"""Which products lose most by being rounded, and which of them to give more bits within a size."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model.layerwise import Grams, layerwise
from onnxmake.model.prequantized import read_logical
from onnxmake.model.quantisers.fitting import nearest
from onnxmake.model.reader import Reader
from onnxmake.model.segments import Segment, Values, key_of
from onnxmake.model.stored import dequantized

Key = tuple[str, ...]


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


def allocate(products: Mapping[Key, Product], low: int, high: int, average: float) -> set[Key]:
    """Those to have the high bits: in the order of loss by value, as many as keep the average at most `average` bits a weight.

    Raises PassError where the low bits alone are more than that.
    """
    if average < low:
        raise PassError(
            f"An average of {average:g} bits cannot be reached: the smallest is {low:g}.",
            "low_bits is what a product has at least.",
            f"Write average_bits = {low:g} or more, or smaller low_bits.",
        )
    room = sum(p.size for p in products.values()) * (average - low)
    chosen: set[Key] = set()
    for key, product in sorted(products.items(), key=lambda item: (-item[1].loss / item[1].size, item[0])):
        if (cost := product.size * (high - low)) <= room:
            room -= cost
            chosen.add(key)
    return chosen
