"""Bind weights: turn references into bytes, streaming. Memory is bounded by a block of rows, whatever the model's size."""
import math
import os
from collections.abc import Callable, Iterator, Mapping
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


def _rows(tensor: Tensor, width: int) -> Iterator[np.ndarray]:
    """The tensor as [rows, width] in its own dtype, blocks of at most BLOCK bytes, read ahead by a thread."""
    dtype = np.dtype(DTYPES[tensor.dtype])
    row = width * dtype.itemsize
    step = max(BLOCK // row, 1) * row
    with open(tensor.path, "rb", buffering=0) as file, ThreadPoolExecutor(1) as ahead:
        def read(start: int) -> np.ndarray:
            data = bytearray(min(step, tensor.size - start))
            if os.preadv(file.fileno(), [data], tensor.offset + start) != len(data):
                raise CheckpointError(f"{tensor.path.name} ended while it was read.", "It was changed during the build.", "Build again.")
            return np.frombuffer(data, dtype).reshape(-1, width)

        starts = range(0, tensor.size, step)
        pending = ahead.submit(read, 0)
        for start in starts:
            block = pending.result()
            if start + step < tensor.size:
                pending = ahead.submit(read, start + step)
            yield block


def _not_finite(name: str) -> CheckpointError:
    return CheckpointError(f"Tensor {name} holds NaN or infinity.", "Training diverged, or the file is damaged.", "Fetch the checkpoint again; if it is the same, choose another.")


def _cast(node: ir.Node, tensors: Mapping[str, Tensor]) -> Iterator[tuple[int, np.ndarray]]:
    """(output, bytes to append) of a Weight: its parts one after the other, in the output's dtype."""
    dtype, offset = np.dtype(node.outputs[0].dtype.numpy()), attribute(node, "offset", 0.0)
    for name in attribute(node, "parts"):
        for rows in _rows(tensors[name], (tensors[name].shape or (1,))[-1]):
            values = rows.astype(np.float32, copy=False)
            if not np.isfinite(values).all():
                raise _not_finite(name)
            values = values + np.float32(offset) if offset else values
            with np.errstate(over="ignore"):
                out = values.astype(dtype, copy=False)
            if dtype == np.float16 and not np.isfinite(out).all():
                raise UnsupportedError(f"Tensor {name} does not fit float16.", "It holds values beyond 65504.", 'Cast to "bf16" or "fp32" instead.')
            yield 0, out


def _quantize(node: ir.Node, tensors: Mapping[str, Tensor]) -> Iterator[tuple[int, np.ndarray]]:
    """(output, bytes to append) of a QuantizedWeight: packed values, scales and zero points of one block of rows after the other."""
    from onnxmake.model.kernels import quantize_rows  # half a second that only a quantised model pays

    bits, size, symmetric = (attribute(node, name) for name in ("bits", "block_size", "symmetric"))
    scale_type = node.outputs[1].dtype.numpy()
    for name in attribute(node, "parts"):
        width = tensors[name].shape[-1]
        blocks = math.ceil(width / size)
        for rows in _rows(tensors[name], width):
            raw = (rows if rows.dtype.itemsize == 2 and tensors[name].dtype == "BF16" else rows.astype(np.float32, copy=False))
            packed = np.empty((len(rows), blocks, size * bits // 8), np.uint8)
            scales = np.empty((len(rows), blocks), np.float32)
            zeros = np.empty((len(rows), math.ceil(blocks * bits / 8)), np.uint8)
            if quantize_rows(raw.view(f"u{raw.itemsize}"), bits, size, bool(symmetric), packed, scales, zeros).any():
                raise _not_finite(name)
            yield from enumerate([packed, scales.astype(scale_type, copy=False)] + ([] if symmetric else [zeros]))


ENCODERS = {"Weight": _cast, "QuantizedWeight": _quantize}
SUFFIXES = {"Weight": ("",), "QuantizedWeight": (".packed", ".scales", ".zeros")}


def _label(node: ir.Node) -> str:
    """The first tensor's name, and how many follow: model.layers.0.self_attn.q_proj.weight+2."""
    first, *more = attribute(node, "parts")
    return first + (f"+{len(more)}" if more else "") + (f".int{attribute(node, 'bits')}" if "bits" in node.attributes else "")


def bind(model: ir.Model, tensors: Mapping[str, Tensor], out: Path, name: str, progress: Callable[[int, int], None]) -> None:
    """Write the bytes of every reference to out/name, in graph order, and make the references initializers that point there.

    `progress` is told bytes read and to read. Raises CheckpointError for values that are not finite.
    """
    references = [node for node in model.graph if node.domain == DOMAIN and node.op_type in ENCODERS]
    total, done, end = sum(tensors[p].size for node in references for p in attribute(node, "parts")), 0, 0
    for node in references:
        for part in attribute(node, "parts"):
            if tensors[part].dtype not in DTYPES:
                raise UnsupportedError(f"Tensor {part} has type {tensors[part].dtype}.", "The checkpoint is already quantised.", "Choose one in bfloat16, float16 or float32.")
    with open(out / name, "wb", buffering=0) as file, ThreadPoolExecutor(1) as behind:
        written = None
        for node in references:
            places = []
            for value in node.outputs:
                size = value.dtype.numpy().itemsize * math.prod(value.shape)
                alignment = ALIGNMENT[size >= 4096]
                end = -(-end // alignment) * alignment
                places.append([end, end, size])
                end += size
            for output, block in ENCODERS[node.op_type](node, tensors):
                if written is not None:
                    written.result()
                data = memoryview(np.ascontiguousarray(block).view(np.uint8).reshape(-1))
                written = behind.submit(_write, file.fileno(), data, places[output][1])
                places[output][1] += len(data)
            done += sum(tensors[p].size for p in attribute(node, "parts"))
            progress(done, total)
            for value, suffix, (start, _, size) in zip(node.outputs, SUFFIXES[node.op_type], places):
                value.name = _label(node) + suffix
                _initialize(model.graph, value, ir.ExternalTensor(name, start, size, value.dtype, shape=value.shape, name=value.name, base_dir=out))
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
