"""Compiled kernels over rows of weights.

Each row is computed by one thread, without fast-math: bytes do not depend on the thread count.
"""

import numpy as np
from numba import njit, prange

SIGN, FINITE = np.uint32(0x80000000), np.int32(0x7F800000)


@njit(parallel=True, cache=True, nogil=True)
def quantize_rows(rows, bits, block, symmetric, packed, scales, zeros):
    """Round-to-nearest block quantisation, byte for byte onnxruntime's quantize_matmul_{4,8}bits.

    Returns rows that hold NaN or infinity (uint8 [N]).

    rows [N, K]: bits of bfloat16 (uint16) or float32 (uint32); packed uint8 [N, blocks, block * bits / 8], low nibble
    first; scales float32 [N, blocks]; zeros uint8 [N, ceil(blocks * bits / 8)], written only where not symmetric. K is
    padded with zeros to whole blocks. Symmetric: scale = (signed value of largest magnitude) / -2^(bits-1), the minimum
    where two tie, and zero point 2^(bits-1). Asymmetric: scale = (max(hi, 0) - min(lo, 0)) / (2^bits - 1), zero point =
    round(-lo / scale), half away from zero.
    """
    count, width = rows.shape
    blocks = scales.shape[1]
    top = np.float32(2**bits - 1)
    middle = np.float32(2 ** (bits - 1))
    shift = np.uint32(32 - 8 * rows.itemsize)  # bfloat16 is the upper half of a float32
    bad = np.zeros(count, np.uint8)
    for n in prange(count):
        buffer = np.zeros(block, np.float32)
        raw = buffer.view(np.uint32)
        signed = buffer.view(np.int32)
        codes = np.empty(block, np.uint8)
        ends = np.empty(2, np.int32)
        end_values = ends.view(np.float32)
        for j in range(blocks):
            size = min(block, width - j * block)
            for i in range(size, block):
                raw[i] = np.uint32(0)
            for i in range(size):
                raw[i] = np.uint32(rows[n, j * block + i]) << shift
            high = low = np.int32(0)  # floats of one sign are ordered as integers, and integer maxima vectorise
            for i in range(block):
                high = max(high, signed[i])
                low = max(low, np.int32(raw[i] ^ SIGN))
            if high >= FINITE or low >= FINITE:
                bad[n] = 1
            ends[0], ends[1] = high, low
            hi, lo = end_values[0], -end_values[1]
            zero = middle
            if symmetric:
                scale = (hi if hi > -lo else lo) / -middle
                inverse = np.float32(0) if scale == 0 else np.float32(1) / scale
            else:
                scale = (hi - lo) / top
                inverse = np.float32(0) if scale == 0 else np.float32(1) / scale
                exact = np.float32(0) if scale == 0 else -lo / scale
                zero = np.floor(exact)  # round half away from zero, as C does
                zero = min(zero + np.float32(exact - zero >= np.float32(0.5)), top)
            scales[n, j] = scale
            codes[size:] = 0  # behind K: never read, and zero as onnxruntime leaves it
            for i in range(size):
                codes[i] = np.uint8(
                    min(max(np.floor(buffer[i] * inverse + zero + np.float32(0.5)), np.float32(0)), top)
                )
            if bits == 8:
                for i in range(block):
                    packed[n, j, i] = codes[i]
            else:
                for i in range(block // 2):
                    packed[n, j, i] = codes[2 * i] | (codes[2 * i + 1] << np.uint8(4))
            if not symmetric:
                if bits == 8:
                    zeros[n, j] = np.uint8(zero)
                elif j % 2 == 0:
                    zeros[n, j // 2] = np.uint8(zero) | (np.uint8(8) << np.uint8(4))
                else:
                    zeros[n, j // 2] = (zeros[n, j // 2] & np.uint8(15)) | (np.uint8(zero) << np.uint8(4))
    return bad


def load() -> None:
    """Compile the kernel for bfloat16 rows, or load it from numba's cache, before it is needed."""
    rows, packed, scales = np.zeros((1, 32), np.uint16), np.empty((1, 1, 16), np.uint8), np.empty((1, 1), np.float32)
    quantize_rows(rows, 4, 32, True, packed, scales, np.empty((1, 1), np.uint8))
