"""Block quantisation in numpy: the checkpoint whose weights are what a quantised model computes with."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, nodes
from onnxmake.model.safetensors import Tensor, read_checkpoint
from onnxmake.model.weights import DTYPES


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


def _values(tensor: Tensor) -> np.ndarray:
    raw = np.fromfile(
        tensor.path,
        np.dtype(DTYPES[tensor.dtype]),
        tensor.size // (2 if "16" in tensor.dtype else 4),
        "",
        tensor.offset,
    )
    return raw.astype(np.float32).reshape(tensor.shape)


def rounded_checkpoint(model: ir.Model, checkpoint: Path, out: Path) -> Path:
    """A float32 copy of the checkpoint, each tensor that a QuantizedWeight of `model` names being rounded. Returns `out`."""
    tensors = {name: _values(tensor) for name, tensor in read_checkpoint(checkpoint).items()}
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
    header, end = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    with open(out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(array.tobytes())
    shutil.copyfile(checkpoint / "config.json", out / "config.json")
    return out
