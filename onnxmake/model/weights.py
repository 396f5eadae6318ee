"""Bind weights.

Turn references into bytes, streaming. Memory is bounded by a block of rows, whatever the model's size.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
import onnx_ir as ir

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.graph import DOMAIN, attribute
from onnxmake.model.safetensors import Tensor

BLOCK = 8 << 20  # bytes read at once: fits the caches that matter, and is long enough for a disk
ALIGNMENT = {True: 4096, False: 64}  # a page for what a runtime maps, a cache line for small tensors
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class Reader:
    """Reads tensors in blocks of rows, one ahead of the caller, into two buffers that serve all of them."""

    def __init__(self, tensors: Mapping[str, Tensor], ahead: ThreadPoolExecutor):
        self.tensors, self.ahead = tensors, ahead
        self.buffers = [bytearray(BLOCK), bytearray(BLOCK)]

    def read(self, node: ir.Node) -> Iterator[tuple[str, np.ndarray]]:
        """Name and [rows, last dimension] of what a reference's parts hold, block by block, in the checkpoint's dtype."""
        if "alternate" in node.attributes:
            yield from self._alternating(node)
            return
        for name, start, end in self._parts(node):
            yield from self._blocks(node, name, start, end)

    def _parts(self, node: ir.Node) -> list[tuple[str, int, int]]:
        """Name, first and last row of each part; of a transposed one, its columns are its rows."""
        names, bounds = attribute(node, "parts"), attribute(node, "rows")
        if bounds:
            return list(zip(names, bounds[::2], bounds[1::2]))
        axis = -2 if "transposed" in node.attributes else -1
        shapes = [self.tensors[name].shape or (1,) for name in names]
        return [(name, 0, math.prod(shape) // shape[axis]) for name, shape in zip(names, shapes)]

    def _blocks(self, node: ir.Node, name: str, start: int, end: int) -> Iterator[tuple[str, np.ndarray]]:
        blocks = self.columns if "transposed" in node.attributes else self.rows
        for block in blocks(name, start, end):
            yield name, block

    def _alternating(self, node: ir.Node) -> Iterator[tuple[str, np.ndarray]]:
        """Of each matrix in the stack, rows 0, N/2, 1, N/2 + 1, ...: half a block from either half at a time."""
        parts, (matrices, rows, width) = self._parts(node), node.outputs[0].shape
        width = width * 8 // attribute(node, "bits") if "bits" in node.attributes else width
        half, step = rows // 2, max(1, BLOCK // (8 * width))
        for matrix in range(matrices):
            for start in range(0, half, step):
                stop = min(start + step, half)
                place = matrix * rows
                name, first = self._range(node, parts, place + start, place + stop)
                _, second = self._range(node, parts, place + half + start, place + half + stop)
                yield name, np.stack([first, second], 1).reshape(-1, width)

    def _range(self, node: ir.Node, parts: Sequence, start: int, end: int) -> tuple[str, np.ndarray]:
        """Rows [start, end), counted over all parts; and the first part's name that has any."""
        found: list[tuple[str, np.ndarray]] = []
        for name, first, last in parts:
            count = last - first
            if start < count and end > 0:
                bounds = first + max(start, 0), first + min(end, count)
                found += [(name, block.copy()) for _, block in self._blocks(node, name, *bounds)]
            start, end = start - count, end - count
        return found[0][0], np.concatenate([block for _, block in found])

    def columns(self, name: str, start: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
        """Rows of the tensor with its last two axes exchanged: read in place, some columns at a time."""
        tensor = self.tensors[name]
        dtype, (height, width) = np.dtype(DTYPES[tensor.dtype]), tensor.shape[-2:]
        mapped = np.memmap(tensor.path, dtype, "r", tensor.offset, tensor.shape).reshape(-1, height, width)
        end, step = len(mapped) * width if end is None else end, max(1, BLOCK // (height * dtype.itemsize))
        while start < end:
            matrix, column = divmod(start, width)
            stop = min(column + step, width, column + end - start)
            yield np.ascontiguousarray(mapped[matrix, :, column:stop].T)
            start += stop - column

    def rows(self, name: str, start: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
        """Rows of the tensor as [rows, last dimension] in its own dtype. A block is valid until the next one is asked for."""
        tensor = self.tensors[name]
        dtype, width = np.dtype(DTYPES[tensor.dtype]), (tensor.shape or (1,))[-1]
        row = width * dtype.itemsize
        if row > BLOCK:
            raise UnsupportedError(
                f"A row of tensor {name} takes {row:,} bytes.",
                "Its last dimension is longer than any known model's.",
                "Report the model.",
            )
        step, first, last = BLOCK // row * row, start * row, tensor.size if end is None else end * row

        def read(start: int) -> memoryview:
            data = memoryview(self.buffers[(start - first) // step % 2])[: min(step, last - start)]
            if os.preadv(file.fileno(), [data], tensor.offset + start) != len(data):
                raise CheckpointError(
                    f"{tensor.path.name} ended while it was read.", "It was changed during the build.", "Build again."
                )
            return data

        with open(tensor.path, "rb", buffering=0) as file:
            pending = self.ahead.submit(read, first)
            for place in range(first, last, step):
                block = np.frombuffer(pending.result(), dtype).reshape(-1, width)
                if place + step < last:
                    pending = self.ahead.submit(read, place + step)
                yield block


def _not_finite(name: str) -> CheckpointError:
    return CheckpointError(
        f"Tensor {name} holds NaN or infinity.",
        "Training diverged, or the file is damaged.",
        "Fetch the checkpoint again; if it is the same, choose another.",
    )


def _cast(node: ir.Node, reader: Reader) -> Iterator[tuple[int, np.ndarray]]:
    """(output, bytes to append) of a Weight: its parts one after the other, in the output's dtype."""
    dtype, offset = np.dtype(node.outputs[0].dtype.numpy()), attribute(node, "offset", 0.0)
    for name, rows in reader.read(node):
        values = rows.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise _not_finite(name)
        values = values + np.float32(offset) if offset else values
        with np.errstate(over="ignore"):
            out = values.astype(dtype, copy=False)
        if dtype == np.float16 and not np.isfinite(out).all():
            raise UnsupportedError(
                f"Tensor {name} does not fit float16.",
                "It holds values beyond 65504.",
                'Cast to "bf16" or "fp32" instead.',
            )
        yield 0, out


def _quantize(node: ir.Node, reader: Reader) -> Iterator[tuple[int, np.ndarray]]:
    """(output, bytes to append) of a QuantizedWeight.

    Packed values, scales and zero points of one block of rows after the other.
    """
    from onnxmake.model.kernels import quantize_rows  # half a second that only a quantised model pays

    bits, size, symmetric = (attribute(node, name) for name in ("bits", "block_size", "symmetric"))
    scale_type = node.outputs[1].dtype.numpy()
    for name, rows in reader.read(node):
        raw = rows if rows.dtype.name == "bfloat16" else rows.astype(np.float32, copy=False)
        blocks = math.ceil(rows.shape[1] / size)
        packed = np.empty((len(rows), blocks, size * bits // 8), np.uint8)
        scales = np.empty((len(rows), blocks), np.float32)
        zeros = np.empty((len(rows), math.ceil(blocks * bits / 8)), np.uint8)
        if quantize_rows(raw.view(f"u{raw.itemsize}"), bits, size, bool(symmetric), packed, scales, zeros).any():
            raise _not_finite(name)
        yield from enumerate([packed, scales.astype(scale_type, copy=False)] + ([] if symmetric else [zeros]))


ENCODERS = {"Weight": _cast, "QuantizedWeight": _quantize}
SUFFIXES = {"Weight": ("",), "QuantizedWeight": (".packed", ".scales", ".zeros")}


def _label(node: ir.Node) -> str:
    """The first tensor's name, how many follow, and what else tells references to the same tensors apart.

    model.layers.0.self_attn.q_proj.weight+2.
    """
    first, *more = attribute(node, "parts")
    rows, offset = attribute(node, "rows"), attribute(node, "offset", 0.0)
    return "".join(
        [
            first,
            f"[{rows[0]}:{rows[-1]}]" if rows else "",
            f"+{len(more)}" if more else "",
            ".transposed" if "transposed" in node.attributes else "",
            ".alternating" if "alternate" in node.attributes else "",
            f".plus{offset:g}" if offset else "",
            f".int{attribute(node, 'bits')}" if "bits" in node.attributes else "",
        ]
    )


def bind(
    model: ir.Model, tensors: Mapping[str, Tensor], out: Path, name: str, progress: Callable[[int, int], None]
) -> None:
    """Write the bytes of every reference to out/name, in graph order.

    And make the references initializers that point there.

    `progress` is told bytes read and to read. Raises CheckpointError for values that are not finite.
    """
    references = [node for node in model.graph if node.domain == DOMAIN and node.op_type in ENCODERS]
    total, done = sum(tensors[p].size for node in references for p in attribute(node, "parts")), 0
    for node in references:
        for part in attribute(node, "parts"):
            if tensors[part].dtype not in DTYPES:
                raise UnsupportedError(
                    f"Tensor {part} has type {tensors[part].dtype}.",
                    "The checkpoint is already quantised.",
                    "Choose one in bfloat16, float16 or float32.",
                )
    places, end = [], 0
    for node in references:
        for value in node.outputs:
            size = value.dtype.numpy().itemsize * math.prod(value.shape)
            alignment = ALIGNMENT[size >= 4096]
            end = -(-end // alignment) * alignment
            places.append((end, size))
            end += size
    pages = iter(places)
    with open(out / name, "wb", buffering=0) as file, ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as behind:
        if hasattr(os, "posix_fallocate") and end:
            os.posix_fallocate(file.fileno(), 0, end)  # a full disk says so now, and pages come faster
        reader, written = Reader(tensors, ahead), None
        for node in references:
            here = [next(pages) for _ in node.outputs]
            position = [start for start, _ in here]
            for output, block in ENCODERS[node.op_type](node, reader):
                data = np.ascontiguousarray(block).view(np.uint8).reshape(-1).data
                if written is not None:
                    written.result()
                if node.op_type == "Weight":  # may be the reader's own buffer
                    _write(file.fileno(), data, position[output])
                else:
                    written = behind.submit(_write, file.fileno(), data, position[output])
                position[output] += len(data)
            done += sum(tensors[p].size for p in attribute(node, "parts"))
            progress(done, total)
            for value, suffix, (start, size) in zip(node.outputs, SUFFIXES[node.op_type], here):
                value.name = _label(node) + suffix
                _initialize(
                    model.graph,
                    value,
                    ir.ExternalTensor(name, start, size, value.dtype, shape=value.shape, name=value.name, base_dir=out),
                )
            model.graph.remove(node, safe=True)
        if written is not None:
            written.result()
        os.truncate(file.fileno(), end)


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _initialize(graph: ir.Graph, old: ir.Value, tensor: ir.TensorProtocol) -> None:
    value = ir.Value(name=old.name, const_value=tensor, shape=old.shape, type=old.type)
    ir.convenience.replace_all_uses_with(old, value)
    old.name = None
    graph.register_initializer(value)
