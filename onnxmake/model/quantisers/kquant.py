"""Weighted search of scale and zero point, after llama.cpp's k-quants: an error counts by the size of its value.

weight = sqrt(mean(x^2)) + |x|. Zero points are integers throughout, as the runtime reads them, and each scale tried is
fitted once more to the codes it gives, by weighted least squares.
"""

import numpy as np
from numba import njit, prange

from onnxmake.model.quantisers.lanes import (
    INVERSE,
    LANES,
    NOTHING,
    SCALE,
    ZERO,
    begin,
    copy,
    ends,
    load,
    nearest,
    store,
)

OFFSETS = np.array([0, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5], np.float32) / 5  # of the ranges tried, in codes


@njit(parallel=True, cache=True, nogil=True)
def quantize_rows(rows, bits, block, symmetric, packed, scales, zeros):
    """Arguments and result as in kernels.py."""
    top = np.float32(2**bits - 1)
    bad = np.zeros(len(rows), np.uint8)
    for group in prange((len(rows) + LANES - 1) // LANES):
        x, weight = np.empty((block, LANES), np.float32), np.empty((block, LANES), np.float32)
        low, high, error = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
        grid, best, sums = (
            np.empty((3, LANES), np.float32),
            np.empty((3, LANES), np.float32),
            np.empty((3, LANES), np.float32),
        )
        codes = np.empty(block, np.uint8)
        for j in range(scales.shape[1]):
            weigh(x, load(rows, group, j, x, bad), weight, error)
            ends(x, low, high)
            for start in range(2 * len(OFFSETS) + 1):
                if start < 2 * len(OFFSETS):
                    begin(low, high, OFFSETS[start // 2], start % 2, bits, symmetric, grid)
                else:  # once more, from the best
                    copy(best, grid)
                if start == 0:
                    copy(grid, best)
                    for lane in range(LANES):
                        error[lane] = np.inf
                improve(x, weight, grid, top, sums, error, best)
            store(x, best, bits, symmetric, group, j, codes, packed, scales, zeros)
    return bad


@njit(inline="always")
def weigh(x, size, weight, mean):
    """Weights of a block's values; 0 behind K, where values are 0 as well."""
    for lane in range(LANES):
        mean[lane] = NOTHING
    for i in range(size):
        for lane in range(LANES):
            mean[lane] += x[i, lane] * x[i, lane]
    for lane in range(LANES):
        mean[lane] = np.sqrt(mean[lane] / np.float32(size))
    for i in range(len(x)):
        for lane in range(LANES):
            weight[i, lane] = mean[lane] + abs(x[i, lane]) if i < size else NOTHING


@njit(inline="always")
def improve(x, weight, grid, top, sums, error, best):
    """Round to the grid, fit its scale to the codes, and keep it as the best one where the weighted error is less.

    With the rest r = x - scale * code, the error for scale + t is sum w r^2 - 2 t sum w r code + t^2 sum w code^2.
    """
    squares, slope, curve = sums[0], sums[1], sums[2]
    for lane in range(LANES):
        squares[lane] = slope[lane] = curve[lane] = NOTHING
    for i in range(len(x)):
        for lane in range(LANES):
            code = nearest(x[i, lane], grid[INVERSE, lane], grid[ZERO, lane], top)
            rest = x[i, lane] - code * grid[SCALE, lane]
            squares[lane] += weight[i, lane] * rest * rest
            slope[lane] += weight[i, lane] * rest * code
            curve[lane] += weight[i, lane] * code * code
    for lane in range(LANES):
        change = slope[lane] / curve[lane] if curve[lane] > 0 else NOTHING
        left = squares[lane] - slope[lane] * change
        if left < error[lane]:
            error[lane] = left
            best[SCALE, lane] = grid[SCALE, lane] + change
            best[INVERSE, lane], best[ZERO, lane] = grid[INVERSE, lane], grid[ZERO, lane]
