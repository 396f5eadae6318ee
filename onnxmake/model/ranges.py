"""From a histogram of |x| to the range that int8 codes of x should span: each method gives the value at which x is clipped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

BINS, LEVELS, STEP = 2048, 128, 8  # of a histogram; of a code's magnitude; bins from one tried threshold to the next
SHARE = 0.99999  # of all values that percentile keeps


def whole(counts: np.ndarray) -> int:
    """Nothing is clipped."""
    return len(counts)


def percentile(counts: np.ndarray) -> int:
    """All but one value in a hundred thousand are kept."""
    return int(np.searchsorted(np.cumsum(counts), SHARE * counts.sum())) + 1


def entropy(counts: np.ndarray) -> int:
    """The clipped distribution, rounded to LEVELS, loses least information. Migacz 2017, "8-bit Inference with TensorRT"."""
    ends = np.arange(LEVELS, len(counts) + 1, STEP)
    return int(ends[np.argmin([_divergence(counts.astype(np.float64), int(end)) for end in ends])])


def _divergence(counts: np.ndarray, end: int) -> float:
    """Kullback and Leibler's, of the first `end` bins, with all that is clipped in the last, from what LEVELS levels of them hold."""
    clipped = counts[:end].copy()
    clipped[-1] += counts[end:].sum()
    seen, level = counts[:end] > 0, np.arange(end) * LEVELS // end
    held, bins = (np.bincount(level, weights, LEVELS) for weights in (counts[:end], seen))
    rounded = np.where(seen, (held / np.maximum(bins, 1))[level], 0)
    p, q = (np.maximum(x / max(x.sum(), 1), 1e-12) for x in (clipped, rounded))
    return float(np.sum(p * np.log(p / q)))


METHODS: Mapping[str, Callable[[np.ndarray], int]] = {"minmax": whole, "percentile": percentile, "entropy": entropy}


@dataclass
class Seen:
    """Of one tensor x: its lowest and highest value, and how many |x| are in each of BINS bins from 0 to the larger of both."""

    low: float = 0.0
    high: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))


def spanned(seen: Seen, method: str) -> tuple[float, float]:
    """The range that codes should span."""
    limit = max(-seen.low, seen.high) * METHODS[method](seen.counts) / BINS
    return max(seen.low, -limit), min(seen.high, limit)


def affine(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point, without a dimension, of uint8 codes that span the range and 0, which one stands for exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.array((high - low) / 255 or 1, np.float32)
    return scale, np.rint(-low / scale).clip(0, 255).astype(np.uint8)
