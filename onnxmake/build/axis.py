"""One axis of a plot: where a value is, and which values are written beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RATIO = 10  # of the largest value to the least, from which on an axis is logarithmic
LEAST = 0.05  # of the largest value: values that are nearly equal are not drawn apart
MARGIN = 0.08  # of the axis on both sides of the values
DECADES = 10  # that are all written
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """`at`: a value's place, 0 to 1; `ticks`: value -> what is written there."""

    at: Callable[[float], float]
    ticks: dict[float, str]


def written(value: float) -> str:
    """10⁻⁴ for what would be long."""
    if value and not 1e-3 <= abs(value) < 1e5:
        exponent = math.floor(math.log10(abs(value)) + 1e-9)
        factor = f"{value / 10.0**exponent:.3g}"
        return f"{'' if factor == '1' else f'{factor}·'}10{str(exponent).translate(SUPERSCRIPT)}"
    return f"{value:.6g}"


def axis(values: Sequence[float], floor: float = 0.0) -> Axis:
    """Through all the values; those below `floor` are shown there, where the axis is logarithmic."""
    low, high = max(min(values), floor), max(values)
    if low > 0 and high / low > RATIO:
        return _logarithmic(low, high, cut=min(values) < floor)
    low = min(values)
    space = max((high - low) * MARGIN, abs(high) * LEAST) or 1.0
    start, end = low - space, high + space
    return Axis(lambda v: (v - start) / (end - start), {tick: written(tick) for tick in _round_numbers(start, end)})


def _logarithmic(low: float, high: float, cut: bool) -> Axis:
    """`cut`: what is below `low` is shown at `low`."""
    span = math.log10(high / low) * MARGIN
    start, end = math.log10(low) - span, math.log10(high) + span
    factors = (1, 2, 5) if end - start < 2.5 else (1,)
    every = math.ceil((end - start) / DECADES)
    places = [f * 10.0**d for d in range(math.floor(start), math.ceil(end) + 1) if d % every == 0 for f in factors]
    ticks = {tick: written(tick) for tick in places if start <= math.log10(tick) <= end}
    if cut:
        ticks[low] = f"≤ {written(low)}"
    return Axis(lambda v: (math.log10(max(v, low) if cut else v) - start) / (end - start), ticks)


def _round_numbers(start: float, end: float) -> list[float]:
    """Four to nine multiples of 1, 2 or 5 times a power of ten."""
    raw = (end - start) / 6
    unit = 10.0 ** math.floor(math.log10(raw))
    step = min((unit * factor for factor in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    return [float(f"{i * step:.9g}") for i in range(math.ceil(start / step), math.floor(end / step) + 1)]
