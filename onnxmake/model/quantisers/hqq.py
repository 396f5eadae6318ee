"""Half-quadratic quantisation (Badri and Shaji 2023): what a block's range cuts off counts less than by its square.

An error is split in two: a sparse part e, which costs |e|^p / p, and the rest r, which costs beta / 2 r^2. For a given error the
best e is the error shrunk by |error|^(p-1) / beta towards zero; for a given e the best grid is least squares. Both in turn,
from several grids, and the cheapest one seen stays. Errors are in codes of the block's whole range: with BETA those of
rounding, half a code at most, are rest as a whole. In the paper scales stay and zero points are fractions; here zero points
are integers, as the runtime reads them, so scales are fitted, too. Its p of 0.7 is 1/2 here: powers become square roots.
"""

import numpy as np
from numba import njit, prange

from onnxmake.model.quantisers.lanes import (
    HALF,
    INVERSE,
    LANES,
    NOTHING,
    ONE,
    SCALE,
    SMALLEST,
    ZERO,
    begin,
    copy,
    ends,
    invert,
    load,
    nearest,
    store,
)

OFFSETS = np.array([0, -3, -2, -1, 1, 2, 3], np.float32) / 3  # of the ranges tried, in codes
ROUNDS = 3
BETA = np.float32(2)
TINY, TWO = np.float32(1e-6), np.float32(2)


@njit(parallel=True, cache=True, nogil=True)
def quantize_rows(rows, bits, block, symmetric, packed, scales, zeros):
    """Arguments and result as in kernels.py."""
    top = np.float32(2**bits - 1)
    bad = np.zeros(len(rows), np.uint8)
    for group in prange((len(rows) + LANES - 1) // LANES):
        x, codes = np.empty((block, LANES), np.float32), np.empty(block, np.uint8)
        low, high = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
        unit, cost = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
        grid, best = np.empty((3, LANES), np.float32), np.empty((3, LANES), np.float32)
        sums = np.empty((4, LANES), np.float32)
        for j in range(scales.shape[1]):
            size = load(rows, group, j, x, bad)
            ends(x, low, high)
            for start in range(2 * len(OFFSETS)):
                begin(low, high, OFFSETS[start // 2], start % 2, bits, symmetric, grid)
                if start == 0:
                    copy(grid, best)
                    for lane in range(LANES):
                        unit[lane] = top / max(high[lane] - low[lane], SMALLEST * 256)
                        cost[lane] = np.inf
                for _ in range(ROUNDS):
                    advance(x, size, unit, grid, top, symmetric, sums, cost, best)
            store(x, best, bits, symmetric, group, j, codes, packed, scales, zeros)
    return bad


@njit(inline="always")
def advance(x, size, unit, grid, top, symmetric, sums, cost, best):
    """Round to the grid, keep it as the best one where the cost is less, and move it to where the rest of the errors is least."""
    total, slope, curve, shift = sums[0], sums[1], sums[2], sums[3]
    for lane in range(LANES):
        total[lane] = slope[lane] = curve[lane] = shift[lane] = NOTHING
    for i in range(size):
        for lane in range(LANES):
            code = nearest(x[i, lane], grid[INVERSE, lane], grid[ZERO, lane], top)
            error = (x[i, lane] - code * grid[SCALE, lane]) * unit[lane]
            length = abs(error)
            rest = min(length, ONE / (BETA * np.sqrt(length) + TINY))
            total[lane] += TWO * np.sqrt(length - rest) + HALF * BETA * rest * rest
            rest = rest if error > 0 else -rest
            slope[lane] += rest * code
            curve[lane] += code * code
            shift[lane] += rest
    for lane in range(LANES):
        if total[lane] < cost[lane]:
            cost[lane] = total[lane]
            best[SCALE, lane], best[INVERSE, lane] = grid[SCALE, lane], grid[INVERSE, lane]
            best[ZERO, lane] = grid[ZERO, lane]
        if not symmetric:
            mean = shift[lane] / (unit[lane] * np.float32(size))
            moved = np.floor(grid[ZERO, lane] - mean * grid[INVERSE, lane] + HALF)
            grid[ZERO, lane] = min(max(moved, NOTHING), top)
        if curve[lane] > 0:
            grid[SCALE, lane] += slope[lane] / (unit[lane] * curve[lane])
    invert(grid)
