"""Read a checkpoint's tensors by name in blocks of rows or columns, quantised ones as the float32 they stand for."""

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.dequantize import tile
from onnxmake.model.prequantized import Grouped, Quantized, Stored
from onnxmake.model.safetensors import Tensor

BLOCK = 8 << 20  # bytes handed on at once: fits the caches that matter, and is long enough for a disk
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
CODES = {"U8": "uint8"}  # of weights that a step has quantised


def _pieces(start: int, end: int, rows: int, step: int) -> Iterator[tuple[int, int, int]]:
    """(matrix, first, stop): [start, end), counted over all matrices of a stack, in pieces of one matrix each."""
    while start < end:
        matrix, first = divmod(start, rows)
        stop = min(first + step, rows, first + end - start)
        yield matrix, first, stop
        start += stop - first


class Reader:
    """Reads tensors in blocks of rows, one ahead of the caller, into two buffers that serve all that is not quantised."""

    def __init__(self, tensors: Mapping[str, Stored], ahead: ThreadPoolExecutor):
        self.tensors, self.ahead = tensors, ahead
        self.block, self.buffers = BLOCK, [bytearray(BLOCK), bytearray(BLOCK)]

    def columns(self, name: str, start: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
        """Rows of the tensor with its last two axes exchanged: read in place, some columns at a time."""
        tensor = self.tensors[name]
        end = math.prod(tensor.shape) // tensor.shape[-2] if end is None else end
        if not isinstance(tensor, Tensor):
            yield from self._dequantized(tensor, not tensor.turned, start, end)
            return
        dtype, (height, width) = np.dtype(DTYPES[tensor.dtype]), tensor.shape[-2:]
        mapped = np.memmap(tensor.path, dtype, "r", tensor.offset, tensor.shape).reshape(-1, height, width)
        for matrix, first, stop in _pieces(start, end, width, max(1, self.block // (height * dtype.itemsize))):
            yield np.ascontiguousarray(mapped[matrix, :, first:stop].T)

    def rows(self, name: str, start: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
        """Rows of the tensor as [rows, last dimension], in its own dtype or, if quantised, float32.

        A block is valid until the next one is asked for.
        """
        tensor = self.tensors[name]
        width = (tensor.shape or (1,))[-1]
        end = math.prod(tensor.shape) // width if end is None else end
        if not isinstance(tensor, Tensor):
            yield from self._dequantized(tensor, tensor.turned, start, end)
            return
        dtype = np.dtype((DTYPES | CODES)[tensor.dtype])
        row = width * dtype.itemsize
        if row > self.block:
            raise UnsupportedError(
                f"A row of tensor {name} takes {row:,} bytes.",
                "Its last dimension is longer than any known model's.",
                "Report the model.",
            )
        step, first, last = self.block // row * row, start * row, end * row

        def read(start: int) -> np.ndarray:
            data = memoryview(self.buffers[(start - first) // step % 2])[: min(step, last - start)]
            if os.preadv(file.fileno(), [data], tensor.offset + start) != len(data):
                raise CheckpointError(
                    f"{tensor.path.name} ended while it was read.", "It was changed during the build.", "Build again."
                )
            return np.frombuffer(data, dtype).reshape(-1, width)

        with open(tensor.path, "rb", buffering=0) as file:
            yield from self._results(functools.partial(read, place) for place in range(first, last, step))

    def _dequantized(self, tensor: Quantized | Grouped, turned: bool, start: int, end: int) -> Iterator[np.ndarray]:
        """Rows [start, end) of the stored matrices or, where `turned`, their columns, each as a row."""
        height, width = tensor.matrix

        def part(matrix: int, first: int, stop: int) -> np.ndarray:
            if turned:
                return np.ascontiguousarray(tile(tensor, matrix, (0, height), (first, stop)).T)
            return tile(tensor, matrix, (first, stop), (0, width))

        count, length = (width, height) if turned else (height, width)
        pieces = _pieces(start, end, count, max(1, self.block // (4 * length)))
        yield from self._results(functools.partial(part, *piece) for piece in pieces)

    def _results(self, calls: Iterable[Callable[[], np.ndarray]]) -> Iterator[np.ndarray]:
        """What each call returns, while the next one runs."""
        pending: Future[np.ndarray] | None = None
        for call in calls:
            following = self.ahead.submit(call)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
