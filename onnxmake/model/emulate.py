"""Block quantisation in numpy: the checkpoint whose weights are what a quantised model computes with."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, nodes
from onnxmake.model.prequantized import read_logical
from onnxmake.model.reader import DTYPES, Reader
from onnxmake.model.safetensors import header_of


def rounded(weight: np.ndarray, bits: int, block: int, symmetric: bool) -> np.ndarray:
    """float32 [N, K] after round-to-nearest in blocks along K, as kernels.quantize_rows rounds."""
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
    codes = np.clip(np.floor(padded * inverse + zero + np.float32(0.5)), 0, top)
    return ((codes - zero) * scale[:, None]).reshape(rows, -1)[:, :width].astype(np.float32)


def _values(checkpoint: Path) -> dict[str, np.ndarray]:
    """Name -> float32 array of every tensor that is a weight: no counters."""
    tensors = {name: tensor for name, tensor in read_logical(checkpoint).items() if tensor.dtype in DTYPES}
    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(tensors, ahead)
        rows = {name: [block.astype(np.float32) for block in reader.rows(name)] for name in tensors}
    return {name: np.concatenate(rows[name]).reshape(tensor.shape) for name, tensor in tensors.items()}


def rounded_checkpoint(model: ir.Model, checkpoint: Path, out: Path) -> Path:
    """A float32 copy of the checkpoint, each tensor that a QuantizedWeight of `model` names being rounded. Returns `out`."""
    tensors = _values(checkpoint)
    done: set[str] = set()
    for node in nodes(model.graph, "QuantizedWeight"):
        settings = [attribute(node, name) for name in ("bits", "block_size", "symmetric")]
        for part in set(attribute(node, "parts")) - done:
            turned = "transposed" in node.attributes
            weight = np.swapaxes(tensors[part], -1, -2) if turned else tensors[part]
            flat = rounded(np.ascontiguousarray(weight).reshape(-1, weight.shape[-1]), *settings).reshape(weight.shape)
            tensors[part] = np.ascontiguousarray(np.swapaxes(flat, -1, -2) if turned else flat)
            done.add(part)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "model.safetensors", "wb") as file:
        file.write(header_of({name: ("F32", array.shape) for name, array in tensors.items()}))
        for array in tensors.values():
            file.write(array.tobytes())
    shutil.copyfile(checkpoint / "config.json", out / "config.json")
    return out
