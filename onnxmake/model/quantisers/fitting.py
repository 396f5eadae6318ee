"""Scales and zero points of blocks that keep a weighted error small."""

import numpy as np
from numba import njit, prange

TRIALS = 10  # scales to either side of the extremes'
SMALLEST = np.float32(2.0**-126)  # scale: a block of less is zero


@njit(cache=True)
def fit(values, importance, bits, symmetric):
    """(scale, zero point) of a block: of that of the extremes and TRIALS to either side of it, each refitted by least
    squares, the one of least error.

    The error is sum(importance (value - scale (code - zero))^2); float32 all.
    """
    top, middle = np.float32(2**bits - 1), np.float32(2 ** (bits - 1))
    low = high = np.float32(0)
    for v in values:
        low, high = min(low, v), max(high, v)
    if symmetric:
        span, steps = (high if high > -low else low) / -middle, middle
    else:
        span, steps = (high - low) / top, top
    if abs(span) < SMALLEST:
        return np.float32(0), middle
    best, scale = np.float32(np.inf), span  # which stay where nothing is of importance
    zero = middle if symmetric else np.rint(-low / span)
    for trial in range(-TRIALS, TRIALS + 1):
        step = span * steps / (steps + np.float32(0.1) * np.float32(trial))
        offset = middle if symmetric else min(max(np.rint(-low / step), np.float32(0)), top)
        xx = xq = qq = np.float32(0)
        for i in range(len(values)):
            code = min(max(np.rint(values[i] / step + offset), np.float32(0)), top) - offset
            weight = importance[i]
            xx += weight * values[i] * values[i]
            xq += weight * values[i] * code
            qq += weight * code * code
        if qq == 0:
            continue
        error = xx - xq * xq / qq
        if error < best:
            best, scale, zero = error, xq / qq, offset
    return scale, zero


@njit(parallel=True, cache=True)
def fit_rows(weight, importance, bits, block, symmetric, scales, zeros):
    """Scales and zero points [N, blocks] of weight [N, K]."""
    for n in prange(len(weight)):
        for j in range(scales.shape[1]):
            part = slice(j * block, (j + 1) * block)
            scales[n, j], zeros[n, j] = fit(weight[n, part], importance[part], bits, symmetric)


@njit(parallel=True, cache=True)
def _nearest(weight, block, top, scales, zeros, codes):
    for n in prange(len(weight)):
        for i in range(weight.shape[1]):
            scale, zero = scales[n, i // block], zeros[n, i // block]
            code = zero
            if scale != 0:
                code = min(max(np.rint(weight[n, i] / scale + zero), np.float32(0)), top)
            codes[n, i] = np.uint8(code)


def nearest(
    importance: np.ndarray, weight: np.ndarray, bits: int, block: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes uint8 [N, K], scales float32 and zero points uint8 [N, ceil(K / block)] of weight [N, K], each value rounded to the
    nearest, with scales fitted to sum(importance [K] error^2)."""
    scales, zeros = (np.zeros((len(weight), -(-weight.shape[1] // block)), np.float32) for _ in range(2))
    weight = np.ascontiguousarray(weight)
    fit_rows(weight, importance.astype(np.float32), bits, block, symmetric, scales, zeros)
    codes = np.empty(weight.shape, np.uint8)
    _nearest(weight, block, np.float32(2**bits - 1), scales, zeros, codes)
    return codes, scales, zeros.astype(np.uint8)
