"""The same block of several rows side by side: what is computed of a block becomes vector instructions over rows.

A lane is a row. Sums run along a block in one order for each lane, so bytes depend neither on the vectors' width nor on
threads. A grid, float32 [3, LANES], is what a block is rounded to: its scale, what values are multiplied with before
they are rounded, and its zero point. Codes are counted from the zero point: -zero to 2^bits - 1 - zero.
"""

import numpy as np
from numba import njit

from onnxmake.model.quantisers.packing import pack, put_zero

LANES = 16
SCALE, INVERSE, ZERO = range(3)
INFINITE, SMALLEST = np.uint32(0x7F800000), np.float32(2.0**-126)
HALF, ONE, NOTHING = np.float32(0.5), np.float32(1), np.float32(0)


@njit(inline="always")
def load(rows, group, j, x, bad):
    """Block j of the group's rows into x float32 [block, LANES], zeros behind K; marks rows that are not finite in bad.

    rows: bits of bfloat16 (uint16) or float32 (uint32). Lanes behind the last row repeat it. Returns how many values
    of the block there are.
    """
    count, width = rows.shape
    block = len(x)
    size = min(block, width - j * block)
    shift = np.uint32(32 - 8 * rows.itemsize)
    raw = x.view(np.uint32)
    for i in range(size, block):
        for lane in range(LANES):
            raw[i, lane] = 0
    for lane in range(LANES):
        n = min(group * LANES + lane, count - 1)
        infinite = False
        for i in range(size):
            value = np.uint32(rows[n, j * block + i]) << shift
            infinite |= (value & INFINITE) == INFINITE
            raw[i, lane] = value
        if infinite:
            bad[n] = 1
    return size


@njit(inline="always")
def ends(x, low, high):
    """The least and the largest value of each lane, zero included."""
    for lane in range(LANES):
        low[lane] = high[lane] = NOTHING
    for i in range(len(x)):
        for lane in range(LANES):
            low[lane], high[lane] = min(low[lane], x[i, lane]), max(high[lane], x[i, lane])


@njit(inline="always")
def begin(low, high, offset, turn, bits, symmetric, grid):
    """A grid to begin a search with: codes for a range that is `offset` codes longer than that of the values.

    Symmetric: zero point 2^(bits-1), and the end of larger magnitude at code 0 or, on turn 1, the other one. Asymmetric: the
    zero point rounded down or, on turn 1, up.
    """
    top, middle, up = np.float32(2**bits - 1), np.float32(2 ** (bits - 1)), np.float32(turn)
    for lane in range(LANES):
        if symmetric:
            end = high[lane] if high[lane] > -low[lane] else low[lane]
            scale = (end if turn else -end) / (middle + offset)
        else:
            scale = (high[lane] - low[lane]) / (top + offset)
        grid[SCALE, lane] = scale
        grid[ZERO, lane] = middle
    invert(grid)
    if not symmetric:
        for lane in range(LANES):
            grid[ZERO, lane] = min(max(np.floor(up - low[lane] * grid[INVERSE, lane]), NOTHING), top)


@njit(inline="always")
def copy(grid, other):
    """`other` becomes what `grid` is."""
    for lane in range(LANES):
        other[SCALE, lane], other[ZERO, lane] = grid[SCALE, lane], grid[ZERO, lane]
    invert(other)


@njit(inline="always")
def invert(grid):
    """What to multiply with for the grid's scales: 0 for scales of nothing, whose values all become the zero point."""
    for lane in range(LANES):
        scale = grid[SCALE, lane]
        grid[INVERSE, lane] = ONE / scale if abs(scale) >= SMALLEST else NOTHING


@njit(inline="always")
def nearest(value, inverse, zero, top):
    """The code, counted from zero, that a value is rounded to."""
    return min(max(np.floor(value * inverse + HALF), -zero), top - zero)


@njit(inline="always")
def store(x, grid, bits, symmetric, group, j, codes, packed, scales, zeros):
    """The block's codes, scales and zero points, packed; codes uint8 [block] is scratch."""
    count, top = len(packed), np.float32(2**bits - 1)
    for lane in range(LANES):
        n = min(group * LANES + lane, count - 1)
        inverse, zero = grid[INVERSE, lane], grid[ZERO, lane]
        scales[n, j] = grid[SCALE, lane]
        for i in range(len(x)):
            codes[i] = np.uint8(nearest(x[i, lane], inverse, zero, top) + zero)
        pack(codes, bits, packed[n, j])
        if not symmetric:
            put_zero(zeros[n], j, bits, zero)
