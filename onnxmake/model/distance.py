"""How far two arrays of one shape and type are apart, a block at a time."""

from collections.abc import Iterator

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np

# What rounding in another order may change, of a tensor's largest value. Integers are equal or they are not.
TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
BLOCK = 1 << 20  # values


def _blocks(*arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        yield [array[start : start + BLOCK] for array in flat]


def distance(first: np.ndarray, second: np.ndarray) -> tuple[int, float]:
    """How many values differ, and by how much at most, of two arrays of one shape and type. Two that are no numbers are the same; one
    beside a number, or an infinity beside another value, is infinitely far from it."""
    count, largest = 0, 0.0
    for a, b in _blocks(first, second):
        unlike = a != b
        if str(first.dtype) in TOLERANCE and unlike.any():
            x, y = a[unlike].astype(np.float64), b[unlike].astype(np.float64)
            with np.errstate(invalid="ignore"):
                apart = np.where(np.isnan(x) & np.isnan(y), 0, np.abs(x - y))
            largest = max(largest, float(np.where(np.isnan(apart), np.inf, apart).max()))
            count += int(np.count_nonzero(~(np.isnan(x) & np.isnan(y))))
        else:
            count += int(np.count_nonzero(unlike))
    return count, largest


def scale_of(array: np.ndarray) -> float:
    """The largest value that is a number."""
    sizes = (np.abs(block.astype(np.float64)) for (block,) in _blocks(array))
    return max(float(size[np.isfinite(size)].max(initial=0.0)) for size in sizes)
