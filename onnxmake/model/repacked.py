"""What a checkpoint holds in groups of integers, in the form that MatMulNBits reads: not a bit of a code, scale or zero point is lost."""

import functools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.codes import cut, order_of, zeros
from onnxmake.model.graph import attribute
from onnxmake.model.grouped import Grouped
from onnxmake.model.parts import read
from onnxmake.model.quantisers.packing import packed
from onnxmake.model.reader import Reader


def record(weight: Grouped, block: int, dtype: np.dtype, rows: tuple[int, int]) -> np.ndarray:
    """uint8 [rows, bytes]: each row's packed codes, scales of type `dtype` and zero points, in blocks that divide its groups.

    Raises CheckpointError for scales that are not finite, UnsupportedError for those that `dtype` would round.
    """
    (_, width), order = weight.shape, order_of(weight)
    codes = cut(weight.codes, rows, (0, width))
    codes = codes if order is None else codes[:, order]
    group = np.arange(0, width, block) // weight.group
    points = zeros(weight, rows)[:, group]
    if width % block:
        codes = np.concatenate([codes, np.repeat(points[:, -1:], -width % block, 1)], 1)
    scales = _exact(weight, cut(weight.scales, rows, (0, weight.scales.shape[1])), dtype)[:, group]
    columns = [packed(codes, weight.bits), _bytes(scales), packed(points, weight.bits, 2 ** (weight.bits - 1))]
    return np.concatenate(columns, 1)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8)


def _exact(weight: Grouped, scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if not np.isfinite(scales).all():
        raise CheckpointError(
            f"Tensor {weight.name} has scales that are NaN or infinity.",
            "Quantising it went wrong, or the file is damaged.",
            "Fetch the checkpoint again; if it is the same, choose another.",
        )
    with np.errstate(over="ignore"):
        kept = scales.astype(dtype)
    if (kept.astype(np.float32) != scales.astype(np.float32)).any():
        raise UnsupportedError(
            f"Scales of {weight.name} are no numbers of {dtype.name}: {scales.dtype.name} holds more.",
            "A product's scales are of the type that the model computes in, and these would be rounded.",
            f"Leave out cast, or cast to the checkpoint's own type, {scales.dtype.name}.",
        )
    return kept


class Records(Reader):
    """Reads weights in groups as rows of bytes."""

    def __init__(self, reader: Reader, block: int, dtype: np.dtype):
        self.tensors, self.ahead, self.block = reader.tensors, reader.ahead, reader.block
        self.of = functools.partial(record, block=block, dtype=dtype)

    def rows(self, name: str, start: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
        weight = self.tensors[name]
        end, step = weight.shape[0] if end is None else end, max(1, self.block // (4 * weight.shape[1]))
        bounds = [(first, min(first + step, end)) for first in range(start, end, step)]
        yield from self._results(functools.partial(self.of, weight, rows=rows) for rows in bounds)


def repacked(node: ir.Node, reader: Reader) -> Iterator[tuple[int, np.ndarray]]:
    """(output, bytes to append) of a QuantizedWeight that the checkpoint holds as such: block after block of rows."""
    block, dtype, blocks = attribute(node, "block_size"), node.outputs[1].dtype.numpy(), node.outputs[1].shape[-1]
    codes = blocks * block * attribute(node, "bits") // 8
    bounds = [codes, codes + blocks * dtype.itemsize]
    for _, rows in read(node, Records(reader, block, dtype)):
        packed, scales, points = np.split(rows, bounds, 1)
        yield from enumerate([packed, scales, points][: len(node.outputs)])
