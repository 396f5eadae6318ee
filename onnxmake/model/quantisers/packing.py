"""Codes of a few bits in bytes, the first in the lowest bits: as MatMulNBits reads weights and zero points."""

import numpy as np
from numba import njit

MIDDLES = np.array([0, 0, 0b10101010, 0, 0x88, 0, 0, 0, 0x80], np.uint8)  # by bits: a byte full of 2^(bits-1)


@njit(inline="always")
def pack(codes, bits, out):
    """uint8 codes [n] -> out [n * bits / 8]."""
    if bits == 8:
        for i in range(len(codes)):
            out[i] = codes[i]
    elif bits == 4:
        for i in range(len(codes) // 2):
            out[i] = codes[2 * i] | (codes[2 * i + 1] << np.uint8(4))
    else:
        for i in range(len(codes) // 4):
            low = codes[4 * i] | (codes[4 * i + 1] << np.uint8(2))
            out[i] = low | (codes[4 * i + 2] << np.uint8(4)) | (codes[4 * i + 3] << np.uint8(6))


@njit(inline="always")
def put_zero(zeros, j, bits, zero):
    """Zero point j of a row into zeros uint8 [ceil(blocks * bits / 8)], after those before it; what is left of the last
    byte is filled with 2^(bits-1), as onnxruntime fills it."""
    place, byte = j * bits & 7, j * bits >> 3
    if place == 0:
        zeros[byte] = MIDDLES[bits]
    zeros[byte] = zeros[byte] & ~(((1 << bits) - 1) << place) | int(zero) << place


def packed(codes: np.ndarray, bits: int, padding: int = 0) -> np.ndarray:
    """uint8 [N, ceil(K bits / 8)]: codes [N, K] of `bits` each, low bits first; the last byte filled up with `padding`."""
    each = 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each)), constant_values=padding)
    out = np.ascontiguousarray(padded[:, ::each])
    for i in range(1, each):  # over whole rows: several times as fast as over the codes of a byte
        out |= padded[:, i::each] << np.uint8(bits * i)
    return out


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """uint8 [..., bytes] -> its first `count` codes, uint8 [..., count]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]
