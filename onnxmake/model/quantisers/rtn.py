"""Round to nearest: the scale is what the largest values ask for."""

import numpy as np
from numba import njit, prange

from onnxmake.model.quantisers.packing import pack, put_zero

SIGN, FINITE = np.uint32(0x80000000), np.int32(0x7F800000)
HALF = np.float32(0.49999997)  # the float before a half: with it, floor rounds halves up, and nothing less


@njit(parallel=True, cache=True, nogil=True)
def quantize_rows(rows, bits, block, symmetric, packed, scales, zeros):
    """Round-to-nearest block quantisation, byte for byte onnxruntime's quantize_matmul_{2,4,8}bits.

    Arguments as in kernels.py. Symmetric: scale = (signed value of largest magnitude) / -2^(bits-1), the minimum where
    two tie, and zero point 2^(bits-1). Asymmetric: scale = (max(hi, 0) - min(lo, 0)) / (2^bits - 1), zero point =
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
                codes[i] = np.uint8(min(max(np.floor(buffer[i] * inverse + zero + HALF), np.float32(0)), top))
            pack(codes, bits, packed[n, j])
            if not symmetric:
                put_zero(zeros[n], j, bits, zero)
    return bad
