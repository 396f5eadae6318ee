"""How much each product, and each table of embeddings, loses by being rounded."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model.footprint import choices
from onnxmake.model.layerwise import Grams, layerwise
from onnxmake.model.options import BlockOptions
from onnxmake.model.parts import read
from onnxmake.model.prequantized import read_logical
from onnxmake.model.quantisers.fitting import nearest
from onnxmake.model.reader import Reader
from onnxmake.model.segments import Key, Segment, Values, key_of
from onnxmake.model.stored import dequantized


@dataclass(frozen=True)
class Loss:
    """Values of a weight, and by which share of the energy of what is made with it rounding to the low bits changes that."""

    size: int
    share: float


def measure(plain: ir.Model, checkpoint: Path, rows: np.ndarray, o: BlockOptions) -> dict[Key, Loss]:
    """Every product and table of the graph that has a choice, by what its weight is a reference to. `plain` is changed."""

    def visit(segment: Segment, weights: Values, grams: Grams) -> None:
        for name, activation in segment.products.items():
            weight, gram = weights[name], grams[activation]
            error, energy = _energy(_rounding(np.diag(gram), weight, o), gram), _energy(weight, gram)
            found[key_of(segment.references[name])] = Loss(weight.size, error / energy if energy else 0.0)

    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(read_logical(checkpoint), ahead)
        tables = {key: node for key, node in choices(plain.graph, o).items() if not _multiplies(node)}
        found = {key: _looked_up(node, reader, np.bincount(rows.ravel()), o) for key, node in tables.items()}
        layerwise(plain, reader, rows, visit)
    return found


def _multiplies(weight: ir.Node) -> bool:
    """Whether a product reads it, as a head does the table that it is tied to."""
    return any(user.op_type == "Linear" for user, _ in weight.outputs[0].uses())


def _looked_up(weight: ir.Node, reader: Reader, counts: np.ndarray, o: BlockOptions) -> Loss:
    """Of the table's rows as often as they are read. counts: by row, as far as any is."""
    error, energy, start = 0.0, 0.0, 0
    for _, block in read(weight, reader):
        here = counts[start : start + len(block)]
        used, start = np.flatnonzero(here), start + len(block)
        values, often = block[used].astype(np.float32), here[used, None]
        error += float((often * _rounding(np.ones(block.shape[1]), values, o) ** 2).sum())
        energy += float((often * values**2).sum())
    return Loss(math.prod(weight.outputs[0].shape), error / energy if energy else 0.0)


def _rounding(importance: np.ndarray, weight: np.ndarray, o: BlockOptions) -> np.ndarray:
    """What rounding changes of a weight [N, K]."""
    rounded = nearest(importance, weight, o.bits, o.block_size, o.symmetric)
    return dequantized(*rounded, o.block_size) - weight


def _energy(weight: np.ndarray, gram: np.ndarray) -> float:
    """|W X|^2, for X^T X."""
    return float(np.vdot(weight @ gram, weight))
