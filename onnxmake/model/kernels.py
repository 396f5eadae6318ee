"""Compiled kernels over rows of weights, by method.

Each row is computed by one thread, without fast-math: bytes do not depend on the thread count.
"""

import math

import ml_dtypes
import numpy as np

from onnxmake.model.quantisers import hqq, kquant, rtn

METHODS = {"rtn": rtn.quantize_rows, "kquant": kquant.quantize_rows, "hqq": hqq.quantize_rows}


def quantize_rows(
    rows: np.ndarray, method: str, bits: int, block: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """packed, scales, zeros and bad of rows [N, K], bfloat16 or what float32 holds: value = (code - zero point) * scale.

    packed uint8 [N, blocks, block * bits / 8], the first code in the lowest bits; scales float32 [N, blocks]; zeros uint8
    [N, ceil(blocks * bits / 8)], of no meaning if symmetric: all zero points are 2^(bits-1) then; bad uint8 [N], 1 for
    rows that hold NaN or infinity. K is padded with zeros to whole blocks.
    """
    raw = rows if rows.dtype.name == "bfloat16" else rows.astype(np.float32, copy=False)
    blocks = math.ceil(rows.shape[1] / block)
    packed = np.empty((len(rows), blocks, block * bits // 8), np.uint8)
    scales = np.empty((len(rows), blocks), np.float32)
    zeros = np.empty((len(rows), math.ceil(blocks * bits / 8)), np.uint8)
    bad = METHODS[method](raw.view(f"u{raw.itemsize}"), bits, block, bool(symmetric), packed, scales, zeros)
    return packed, scales, zeros, bad


def load() -> None:
    """Compile the kernel most used, or load it from numba's cache, before it is needed."""
    quantize_rows(np.zeros((1, 32), ml_dtypes.bfloat16), "rtn", 4, 32, True)
