"""Quantisation in numpy: the checkpoint whose weights are what a quantised model computes with."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model import channels
from onnxmake.model.graph import attribute, emit, integers, nodes, produced_by, prune, replace
from onnxmake.model.kernels import quantize_rows
from onnxmake.model.prequantized import Stored, read_logical
from onnxmake.model.quantisers.packing import unpack
from onnxmake.model.reader import CODES, DTYPES, Reader
from onnxmake.model.safetensors import header_of, read_header
from onnxmake.model.stored import SUFFIXES, dequantized


def rounded(weight: np.ndarray, bits: int, block: int, symmetric: bool, scales: str = "float32") -> np.ndarray:
    """float32 [N, K] after round-to-nearest in blocks along K, as the method rtn rounds; scales are kept in a type."""
    (rows, width), top, middle = weight.shape, np.float32(2**bits - 1), np.float32(2 ** (bits - 1))
    padded = np.pad(weight, ((0, 0), (0, -width % block))).reshape(-1, block)
    high, low = (np.float32(0), np.float32(0)) if not padded.size else (padded.max(1), padded.min(1))
    if symmetric:
        scale, zero = np.where(high > -low, high, low) / -middle, middle
    else:
        high, low = np.maximum(high, 0), np.minimum(low, 0)
        scale = (high - low) / top
        zero = np.minimum(np.floor(np.divide(-low, scale, out=np.zeros_like(scale), where=scale != 0) + 0.5), top)[
            :, None
        ]
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)[:, None]
    codes = np.clip(np.floor(padded * inverse + zero + np.float32(0.49999997)), 0, top)
    kept = scale.astype(scales).astype(np.float32)
    return ((codes - zero) * kept[:, None]).reshape(rows, -1)[:, :width]


def values_of(
    weight: np.ndarray, method: str, bits: int, block: int, symmetric: bool, kept: str = "float32"
) -> np.ndarray:
    """float32 [N, K] that stand in place of `weight`: of rtn by numpy alone, of methods that search by the codes they chose;
    scales are kept in a type."""
    if method == "rtn":
        return rounded(weight, bits, block, symmetric, kept)
    packed, scales, zeros, _ = quantize_rows(weight, method, bits, block, symmetric)
    codes, scales = unpack(packed, bits, block).astype(np.float32), scales.astype(kept).astype(np.float32)
    zero = np.float32(2 ** (bits - 1)) if symmetric else unpack(zeros, bits, scales.shape[1])[..., None]
    return ((codes - zero) * scales[..., None]).reshape(len(weight), -1)[:, : weight.shape[1]]


def _values(checkpoint: Mapping[str, Stored]) -> dict[str, np.ndarray]:
    """Name -> array of every tensor that is a weight, float32, or codes: no counters."""
    tensors = {name: tensor for name, tensor in checkpoint.items() if tensor.dtype in DTYPES | CODES}
    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(tensors, ahead)
        types = {name: np.uint8 if tensor.dtype in CODES else np.float32 for name, tensor in tensors.items()}
        rows = {name: [block.astype(types[name]) for block in reader.rows(name)] for name in tensors}
    return {name: np.concatenate(rows[name]).reshape(tensor.shape) for name, tensor in tensors.items()}


def _put(tensors: dict[str, np.ndarray], node: ir.Node, weight: np.ndarray) -> None:
    """Let the tensors that a reference names be what it was quantised to, [N, K]."""
    names, bounds, start = attribute(node, "parts"), attribute(node, "rows"), 0
    for i, name in enumerate(names):
        matrix = tensors[name].T if "transposed" in node.attributes else tensors[name]  # a view: writes go through
        first, last = bounds[2 * i : 2 * i + 2] if bounds else (0, len(matrix))
        matrix[first:last] = weight[start : start + last - first]
        start += last - first


def _made(tensors: dict[str, np.ndarray], model: ir.Model, stored: Mapping[str, np.ndarray]) -> None:
    """Take over what a step has quantised, and what it changed in front of that."""
    for node in nodes(model.graph, "QuantizedWeight"):
        if (label := attribute(node, "stored")) is None:
            continue
        bits, block = attribute(node, "bits"), attribute(node, "block_size")
        codes, scales, zeros = (stored.get(label + suffix) for suffix in SUFFIXES)
        width = codes.shape[1] * block
        codes = unpack(codes.reshape(len(codes), -1), bits, width)
        middle = np.full(scales.shape, 2 ** (bits - 1))
        points = middle if zeros is None else unpack(zeros, bits, scales.shape[1])
        _put(tensors, node, dequantized(codes, scales, points, block)[:, : _width(tensors, node)])
    for node in nodes(model.graph, "Weight"):
        if (name := attribute(node, "instead_of")) is not None:
            tensors[name] = stored[attribute(node, "parts")[0]].reshape(tensors[name].shape)


def _width(tensors: Mapping[str, np.ndarray], node: ir.Node) -> int:
    """K of a weight [N, K]: blocks may reach beyond it."""
    return tensors[attribute(node, "parts")[0]].shape[-2 if "transposed" in node.attributes else -1]


def rounded_checkpoint(
    model: ir.Model, checkpoint: Path, out: Path, stored: Path | None = None, values: Callable = values_of
) -> Path:
    """A float32 copy of the checkpoint, `values` in place of each tensor that a quantised reference of `model` names, or what
    the file `stored` says that a step has rounded it to. Returns `out`."""
    tensors = _values(read_logical(checkpoint))
    if stored is not None and stored.exists():
        _made(tensors, model, _values(read_header(stored)))
    done: set[str] = set()
    for node in nodes(model.graph, "QuantizedWeight"):
        if "stored" in node.attributes or attribute(node, "method") == "checkpoint":
            continue
        settings = [attribute(node, name) for name in ("bits", "block_size", "symmetric")]
        settings.append(node.outputs[1].dtype.numpy())
        method = attribute(node, "method", "rtn")
        for part in set(attribute(node, "parts")) - done:
            turned = "transposed" in node.attributes
            weight = np.swapaxes(tensors[part], -1, -2) if turned else tensors[part]
            flat = np.ascontiguousarray(weight).reshape(-1, weight.shape[-1])
            flat = values(flat, method, *settings).reshape(weight.shape)
            tensors[part] = np.ascontiguousarray(np.swapaxes(flat, -1, -2) if turned else flat)
            done.add(part)
    for node in nodes(model.graph, "ChannelQuantizedWeight"):
        for part in set(attribute(node, "parts")) - done:
            turned = "transposed" in node.attributes
            weight = np.ascontiguousarray(tensors[part].T if turned else tensors[part])
            codes, scales = channels.rounded(weight.reshape(len(weight), -1), attribute(node, "bits"))
            flat = (codes * scales[:, None]).reshape(weight.shape)
            tensors[part] = np.ascontiguousarray(flat.T if turned else flat)
            done.add(part)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "model.safetensors", "wb") as file:
        file.write(header_of({name: ("F32", array.shape) for name, array in tensors.items()}))
        for array in tensors.values():
            file.write(array.tobytes())
    shutil.copyfile(checkpoint / "config.json", out / "config.json")
    return out


def with_float_activations(graph: ir.Graph) -> None:
    """Let nothing but weights be rounded, in place: products of integers become those of what the integers stand for."""
    for node in nodes(graph, "MatMulIntegerToFloat"):
        whole, codes, scale, scales, _, *bias = node.inputs
        x, *by = whole.producer().inputs[: 1 if whole.producer().op_type == "DynamicQuantizeLinear" else 2]
        if by:
            x = emit(node, "Mul", [emit(node, "Div", [x, *by], x.shape), scale], x.shape)
        weight = emit(node, "DequantizeLinear", [codes, scales], codes.shape, dtype=x.dtype, axis=1)
        out = emit(node, "MatMul", [x, weight], node.outputs[0].shape)
        replace(node, [emit(node, "Add", [out, bias[1]], out.shape) if bias else out])
    for node in nodes(graph, "DequantizeLinear"):
        if (before := produced_by(node.inputs[0], "QuantizeLinear")) is not None:
            replace(node, [before.inputs[0]])
        else:  # spelt out: the runtime makes a product with integer activations of what it finds behind this op
            codes, scales = node.inputs
            floats = emit(node, "Cast", [codes], codes.shape, dtype=scales.dtype, to=int(scales.dtype))
            column = [size if i == attribute(node, "axis") else 1 for i, size in enumerate(codes.shape)]
            scales = emit(node, "Reshape", [scales, integers(graph, column)], column)
            replace(node, [emit(node, "Mul", [floats, scales], codes.shape)])
    prune(graph)
