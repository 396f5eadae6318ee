"""The Pareto front: who is beaten by nobody in everything."""

from collections.abc import Mapping, Sequence


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better; less is better."""
    return all(x <= y for x, y in zip(a, b)) and tuple(a) != tuple(b)


def front(points: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of those that no other dominates, in the order given."""
    return [name for name, own in points.items() if not any(dominates(other, own) for other in points.values())]
