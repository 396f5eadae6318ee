"""Read what a reference to weights names: ranges of rows of some tensors, as they stand, turned, or alternating."""

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxmake.errors import CheckpointError
from onnxmake.model.graph import attribute
from onnxmake.model.reader import Reader


def not_finite(name: str) -> CheckpointError:
    """The error that names a tensor of the checkpoint."""
    return CheckpointError(
        f"Tensor {name} holds NaN or infinity.",
        "Training diverged, or the file is damaged.",
        "Fetch the checkpoint again; if it is the same, choose another.",
    )


def read(node: ir.Node, reader: Reader) -> Iterator[tuple[str, np.ndarray]]:
    """Name and [rows, last dimension] of what a reference's parts hold, block by block, in the checkpoint's dtype."""
    if "alternate" in node.attributes:
        yield from _alternating(node, reader)
        return
    for name, start, end in _parts(node, reader):
        yield from _blocks(node, reader, name, start, end)


def _parts(node: ir.Node, reader: Reader) -> list[tuple[str, int, int]]:
    """Name, first and last row of each part; of a transposed one, its columns are its rows."""
    names, bounds = attribute(node, "parts"), attribute(node, "rows")
    if bounds:
        return list(zip(names, bounds[::2], bounds[1::2]))
    axis = -2 if "transposed" in node.attributes else -1
    shapes = [reader.tensors[name].shape or (1,) for name in names]
    return [(name, 0, math.prod(shape) // shape[axis]) for name, shape in zip(names, shapes)]


def _blocks(node: ir.Node, reader: Reader, name: str, start: int, end: int) -> Iterator[tuple[str, np.ndarray]]:
    blocks = reader.columns if "transposed" in node.attributes else reader.rows
    for block in blocks(name, start, end):
        yield name, block


def _alternating(node: ir.Node, reader: Reader) -> Iterator[tuple[str, np.ndarray]]:
    """Of each matrix in the stack, rows 0, N/2, 1, N/2 + 1, ...: half a block from either half at a time."""
    parts, (matrices, rows, width) = _parts(node, reader), node.outputs[0].shape
    width = width * 8 // attribute(node, "bits") if "bits" in node.attributes else width
    starts = [0, *itertools.accumulate(last - first for _, first, last in parts)][:-1]
    half, step = rows // 2, max(1, reader.block // (8 * width))
    for place, start in itertools.product(range(0, matrices * rows, rows), range(0, half, step)):
        stop = min(start + step, half)
        halves = (place, place + half)
        both = [_range(node, reader, parts, starts, begin + start, begin + stop) for begin in halves]
        pairs = np.stack(both, 1)
        yield parts[bisect.bisect_right(starts, place + start) - 1][0], pairs.reshape(-1, pairs.shape[-1])


def _range(node: ir.Node, reader: Reader, parts: Sequence, starts: Sequence[int], start: int, end: int) -> np.ndarray:
    """Rows [start, end), counted over all parts, whose first rows have the numbers `starts`."""
    found, number = [], bisect.bisect_right(starts, start) - 1
    while start < end:
        name, first, last = parts[number]
        stop = min(end, starts[number] + last - first)
        bounds = first + start - starts[number], first + stop - starts[number]
        found += [block.copy() for _, block in _blocks(node, reader, name, *bounds)]
        start, number = stop, number + 1
    return np.concatenate(found)
