"""Codes times scales: a part of a quantised tensor as float32."""

import math

import ml_dtypes
import numpy as np

from onnxmake.model.codes import dequantized
from onnxmake.model.prequantized import SCALES, Grouped, Quantized
from onnxmake.model.safetensors import Tensor

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BYTES = np.arange(256, dtype=np.uint8)
VALUES = {  # type of codes -> what a byte means; two values, the lower half's first, are looked up as one number
    "F8_E4M3": BYTES.view(ml_dtypes.float8_e4m3fn).astype(np.float32),
    "U8": FP4[np.stack([BYTES & 15, BYTES >> 4], 1)].view(np.uint64)[:, 0],
}


def _mapped(tensor: Tensor, dtype: str, matrices: int, rows: int) -> np.ndarray:
    """[matrices, rows, columns], of which nothing is read before it is used."""
    columns = tensor.size // (np.dtype(dtype).itemsize * matrices * rows)
    return np.memmap(tensor.path, dtype, "r", tensor.offset, (matrices, rows, columns))


def _spread(scales: np.ndarray, block: int, first: int, stop: int, axis: int) -> np.ndarray:
    """The scales of blocks that [first, stop) touches -> one for each place in it."""
    blocks = np.arange(first // block, -(-stop // block) + 1) * block
    return scales.repeat(np.diff(blocks.clip(first, stop)), axis)


def tile(tensor: Quantized | Grouped, matrix: int, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Rows and columns, each from first to stop, of a stored matrix: float32 [rows, columns]."""
    if isinstance(tensor, Grouped):
        return dequantized(tensor, rows, columns)
    (height, _), (tall, wide), values = tensor.matrix, tensor.block, VALUES[tensor.codes.dtype]
    matrices, places = math.prod(tensor.shape[:-2]), values.itemsize // 4  # values of a byte
    codes = _mapped(tensor.codes, "uint8", matrices, height)[matrix]
    scales = _mapped(tensor.scales, SCALES[tensor.scales.dtype], matrices, -(-height // tall))[matrix]
    (top, bottom), (left, right) = rows, columns
    found = values[codes[top:bottom, left // places : -(-right // places)]].view(np.float32)
    used = scales[top // tall : -(-bottom // tall), left // wide : -(-right // wide)].astype(np.float32)
    skipped = left % places
    out = found[:, skipped : skipped + right - left]
    with np.errstate(over="ignore", invalid="ignore"):  # who takes the values looks for what is not finite
        out *= _spread(_spread(used, tall, top, bottom, 0), wide, left, right, 1)
    return out
