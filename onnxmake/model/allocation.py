"""Which weights to give more bits within a size: those that lose most by being rounded, as long as there is room."""

import math
from collections.abc import Callable, Collection, Mapping

from onnxmake.errors import PassError
from onnxmake.model.footprint import Sizes, file_size, free
from onnxmake.model.segments import Key
from onnxmake.model.sensitivity import Loss

Fits = Callable[[Collection[Key]], bool]  # whether there is room for the high bits of these weights


def allocate(losses: Mapping[Key, Loss], fits: Fits, first: Collection[Key] = ()) -> set[Key]:
    """Those to have the high bits: `first`, then in the order of loss by value each that still fits."""
    chosen = {*first} & losses.keys()
    for key, _ in sorted(losses.items(), key=lambda item: (-item[1].share / item[1].size, item[0])):
        if fits(chosen | {key}):
            chosen.add(key)
    return chosen


def within_average(losses: Mapping[Key, Loss], low: int, high: int, average: float) -> Fits:
    """At most `average` bits for a weight, scales not counted. Raises PassError where the low bits alone are more."""
    if not average >= low:
        raise PassError(
            f"An average of {average:g} bits cannot be reached: the smallest is {low:g}.",
            "low_bits is what each has at least.",
            f"Write average_bits = {low:g} or more, or smaller low_bits.",
        )
    room = sum(p.size for p in losses.values()) * (average - low)
    return lambda chosen: sum(losses[key].size for key in chosen) * (high - low) <= room


def within_size(low: Sizes, high: Sizes, megabytes: float) -> Fits:
    """At most `megabytes` of 10^6 bytes in model.onnx.data. Raises PassError where the low bits alone take more."""
    least = file_size(low, high, free(low, high))
    smallest = math.ceil(least / 1e4) / 100
    if not least <= megabytes * 1e6:
        raise PassError(
            f"A size of {megabytes:g} MB cannot be reached: the smallest is {smallest:.2f} MB.",
            "That is model.onnx.data with low_bits for every weight that has a choice; the rest are scales, and what stays float.",
            f"Write max_size_mb = {smallest:.2f} or more, smaller low_bits, or a larger block_size.",
        )
    return lambda chosen: file_size(low, high, chosen) <= megabytes * 1e6
