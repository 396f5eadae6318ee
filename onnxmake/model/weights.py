"""Bind weights.

Turn references into bytes, streaming. Memory is bounded by a block of rows, whatever the model's size.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.channels import rounded
from onnxmake.model.graph import DOMAIN, attribute
from onnxmake.model.parts import not_finite, read
from onnxmake.model.prequantized import Stored
from onnxmake.model.reader import DTYPES, Reader

ALIGNMENT = {True: 4096, False: 64}  # a page for what a runtime maps, a cache line for small tensors


def _cast(node: ir.Node, reader: Reader) -> Iterator[tuple[int, np.ndarray]]:
    """(output, bytes to append) of a Weight: its parts one after the other, in the output's dtype."""
    dtype, offset = np.dtype(node.outputs[0].dtype.numpy()), attribute(node, "offset", 0.0)
    for name, rows in read(node, reader):
        values = rows.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise not_finite(name)
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
    if "stored" in node.attributes:
        yield from _stored(node, reader)
        return
    if attribute(node, "method") == "checkpoint":
        from onnxmake.model.repacked import repacked

        yield from repacked(node, reader)
        return
    from onnxmake.model.kernels import quantize_rows  # half a second that only a quantised model pays

    settings = [attribute(node, name) for name in ("bits", "block_size", "symmetric")]
    scale_type = node.outputs[1].dtype.numpy()
    for name, rows in read(node, reader):
        packed, scales, zeros, bad = quantize_rows(rows, attribute(node, "method", "rtn"), *settings)
        if bad.any():
            raise not_finite(name)
        yield from enumerate([packed, scales.astype(scale_type, copy=False), zeros][: len(node.outputs)])


def _stored(node: ir.Node, reader: Reader) -> Iterator[tuple[int, np.ndarray]]:
    """The same of one that an earlier step has quantised."""
    for output, (value, suffix) in enumerate(zip(node.outputs, SUFFIXES["QuantizedWeight"])):
        for rows in reader.rows(attribute(node, "stored") + suffix):
            yield output, rows.astype(value.dtype.numpy(), copy=True)


def _channels(node: ir.Node, reader: Reader) -> Iterator[tuple[str, np.ndarray]]:
    """Name and [channels, values]: blocks of rows, cut where a channel ends."""
    each = 1 if "turned" in node.attributes else math.prod(node.outputs[0].shape[1:-1])  # rows
    left = None
    for name, rows in read(node, reader):
        rows = rows if left is None else np.concatenate([left, rows])
        count = len(rows) // each
        left = rows[count * each :].copy() if len(rows) % each else None
        if count:
            yield name, rows[: count * each].reshape(count, -1)


def _quantize_channels(node: ir.Node, reader: Reader) -> Iterator[tuple[int, np.ndarray]]:
    """(output, bytes to append) of a ChannelQuantizedWeight: codes, of a turned one as columns, and scales."""
    for name, rows in _channels(node, reader):
        codes, scales = rounded(rows.astype(np.float32, copy=False), attribute(node, "bits"))
        if not np.isfinite(scales).all():
            raise not_finite(name)
        yield 0, codes.T if "turned" in node.attributes else codes
        yield 1, scales


ENCODERS = {"Weight": _cast, "QuantizedWeight": _quantize, "ChannelQuantizedWeight": _quantize_channels}
SUFFIXES = {
    "Weight": ("",),
    "QuantizedWeight": (".packed", ".scales", ".zeros"),
    "ChannelQuantizedWeight": (".codes", ".channels"),
}


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
            ".stored" if "stored" in node.attributes else "",
            f".{method}" if (method := attribute(node, "method", "rtn")) != "rtn" else "",
        ]
    )


def references(graph: ir.Graph) -> list[ir.Node]:
    """What is bound, in the file's order."""
    return [node for node in graph if node.domain == DOMAIN and node.op_type in ENCODERS]


def size_of(value: ir.Value) -> int:
    """Bytes of one of a reference's arrays."""
    return value.dtype.numpy().itemsize * math.prod(value.shape)


def laid_out(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where in the file arrays of these sizes begin, and where the last ends."""
    starts, end = [], 0
    for size in sizes:
        alignment = ALIGNMENT[size >= 4096]
        starts.append(-(-end // alignment) * alignment)
        end = starts[-1] + size
    return starts, end


def bind(
    model: ir.Model,
    tensors: Mapping[str, Stored],
    out: Path,
    name: str,
    progress: Callable[[int, int], None],
) -> None:
    """Write the bytes of every reference to out/name, in graph order.

    And make the references initializers that point there.

    `progress` is told bytes read and to read. Raises CheckpointError for values that are not finite.
    """
    bound = references(model.graph)
    total, done = sum(tensors[p].size for node in bound for p in attribute(node, "parts")), 0
    for node in bound:
        for part in attribute(node, "parts"):
            if tensors[part].dtype not in DTYPES:
                raise UnsupportedError(
                    f"Tensor {part} has type {tensors[part].dtype}.",
                    "The checkpoint is already quantised.",
                    "Choose one in bfloat16, float16 or float32.",
                )
    sizes = [size_of(value) for node in bound for value in node.outputs]
    starts, end = laid_out(sizes)
    pages = iter(zip(starts, sizes))
    with open(out / name, "wb", buffering=0) as file, ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as behind:
        if hasattr(os, "posix_fallocate") and end:
            os.posix_fallocate(file.fileno(), 0, end)  # a full disk says so now, and pages come faster
        reader, written = Reader(tensors, ahead), None
        for node in bound:
            here = [next(pages) for _ in node.outputs]
            position = [start for start, _ in here]
            for output, block in ENCODERS[node.op_type](node, reader):
                columns = output == 0 and "turned" in node.attributes
                block = np.ascontiguousarray(block)
                data = block.view(np.uint8).reshape(-1).data
                if written is not None:
                    written.result()
                if node.op_type == "Weight":  # may be the reader's own buffer
                    _write(file.fileno(), data, position[output])
                elif columns:
                    width = node.outputs[0].shape[1]
                    written = behind.submit(_write_columns, file.fileno(), block, position[output], width)
                else:
                    written = behind.submit(_write, file.fileno(), data, position[output])
                position[output] += block.shape[1] if columns else len(data)
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


def _write_columns(file: int, block: np.ndarray, offset: int, width: int) -> None:
    """Some columns, of a byte each, of a matrix that is `width` wide."""
    for row, values in enumerate(block):
        _write(file, values.data, offset + row * width)


def _initialize(graph: ir.Graph, old: ir.Value, tensor: ir.TensorProtocol) -> None:
    value = ir.Value(name=old.name, const_value=tensor, shape=old.shape, type=old.type)
    ir.convenience.replace_all_uses_with(old, value)
    old.name = None
    graph.register_initializer(value)
