"""Checkpoints as methods of quantisation store them, made in plain numpy, and the values that they stand for."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from onnxmake.model.safetensors import header_of

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
Raw = Mapping[str, tuple[str, np.ndarray]]  # name -> type in safetensors, array of any type of that size


def write(folder: Path, tensors: Raw, settings: Any, config: Mapping[str, Any] | None = None) -> Path:
    """A checkpoint whose config.json has `settings` as its quantization_config. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**(config or {}), "quantization_config": settings}))
    arrays = {name: (dtype, np.asarray(array, order="C")) for name, (dtype, array) in tensors.items()}
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header_of({name: (dtype, array.shape) for name, (dtype, array) in arrays.items()}))
        for _, array in arrays.values():
            file.write(array.tobytes())
    return folder


def fp8_values(codes: np.ndarray, scales: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """float32 of codes uint8 [..., N, K] and scales float32 [..., n, k], one value after the other."""
    out = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    for *lead, row, column in np.ndindex(*codes.shape):
        out[(*lead, row, column)] *= scales[(*lead, row // block[0], column // block[1])]
    return out


def fp4_values(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 [..., N, K] of blocks uint8 [..., N, K / 32, 16] and scales uint8 [..., N, K / 32]."""
    codes = np.stack([blocks % 16, blocks // 16], -1).reshape(*blocks.shape[:-1], 32)
    return np.ldexp(FP4[codes], scales[..., None].astype(np.int32) - 127).reshape(*scales.shape[:-1], -1)


def to_fp8(values: np.ndarray, block: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Codes uint8 [N, K] and scales float32 [n, k], of which the last ones may be of smaller blocks."""
    rows, columns = (range(0, size, step) for size, step in zip(values.shape, block))
    scales, codes = np.empty((len(rows), len(columns)), np.float32), np.empty(values.shape, np.uint8)
    for i, j in np.ndindex(*scales.shape):
        part = np.s_[rows[i] : rows[i] + block[0], columns[j] : columns[j] + block[1]]
        scales[i, j] = np.abs(values[part]).max() / 448
        codes[part] = (values[part] / scales[i, j]).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return codes, scales


def to_fp4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks uint8 [..., N, K / 32, 16] and scales uint8 [..., N, K / 32]."""
    groups = values.reshape(*values.shape[:-1], -1, 32)
    exponents = np.ceil(np.log2(np.abs(groups).max(-1) / 6)).astype(np.int32)
    codes = np.abs(np.ldexp(groups, -exponents[..., None])[..., None] - FP4).argmin(-1).astype(np.uint8)
    return codes[..., ::2] | codes[..., 1::2] << 4, (exponents + 127).astype(np.uint8)


def requantised(checkpoint: Path, folder: Path, settings: Mapping[str, Any]) -> tuple[Path, Path]:
    """The float32 checkpoint as quantization_config `settings` would store it, and unquantised with the same values."""
    config, tensors = json.loads((checkpoint / "config.json").read_text()), load_file(checkpoint / "model.safetensors")
    raw: dict[str, tuple[str, np.ndarray]] = {}
    for name, values in tensors.items():
        if settings["quant_method"] == "fp8" and name.endswith("proj.weight"):
            block = settings["weight_block_size"] or values.shape
            codes, scales = to_fp8(values, block)
            raw |= {name: ("F8_E4M3", codes), f"{name}_scale_inv": ("F32", scales)}
            if settings["weight_block_size"] is None:
                raw[f"{name}_scale_inv"] = "F32", scales.reshape(())
                raw[f"{name.removesuffix('weight')}activation_scale"] = "F32", np.ones((), np.float32)
            tensors[name] = fp8_values(codes, scales, block)
        elif settings["quant_method"] == "mxfp4" and values.ndim == 3:
            blocks, exponents = to_fp4(np.ascontiguousarray(values.swapaxes(1, 2)))
            raw |= {f"{name}_blocks": ("U8", blocks), f"{name}_scales": ("U8", exponents)}
            tensors[name] = np.ascontiguousarray(fp4_values(blocks, exponents).swapaxes(1, 2))
        else:
            raw[name] = "F32", values
    assert len(raw) > len(tensors)
    (folder / "plain").mkdir(parents=True)
    shutil.copyfile(checkpoint / "config.json", folder / "plain" / "config.json")
    save_file(tensors, folder / "plain" / "model.safetensors")
    return write(folder / "stored", raw, settings, config), folder / "plain"
