"""[search] of a target: which options of its passes a search varies, and what it looks for."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from onnxmake.build.gates import METRICS
from onnxmake.build.schema import nearest, parse, plain
from onnxmake.errors import TargetError

LARGER = {"top1", "cosine", "cosine_mean"}  # what is better when it is more
OBJECTIVES = tuple(name for name in METRICS if name not in ("decode", "perplexity_unquantised"))


Point = dict[str, Any]  # axis' label -> value


@dataclass(frozen=True)
class Settings:
    """The keys of [search] beside its tables of options."""

    trials: int = 20
    objectives: tuple[str, ...] = ("kl", "size_mb")
    seed: int = 0

    def __post_init__(self):
        if self.trials < 1 or not self.objectives:
            raise ValueError("trials must be at least 1, and there must be an objective")
        if unknown := [name for name in self.objectives if name not in OBJECTIVES]:
            raise ValueError(f"objective {unknown[0]!r} is none of {', '.join(OBJECTIVES)}")


@dataclass(frozen=True)
class Axis:
    """An option of the pass at `place`, counted from 0, and its values: some, or all between two."""

    place: int
    name: str  # of the pass
    option: str
    values: tuple = ()
    low: float = 0
    high: float = 0

    @property
    def label(self) -> str:
        return f"{self.name}.{self.option}"


@dataclass(frozen=True)
class Search:
    """What `doit search` does."""

    settings: Settings
    axes: tuple[Axis, ...]

    @property
    def grid(self) -> Iterator[Point]:
        """Every point, by the axes' labels; of axes with values only."""
        return (
            dict(zip([axis.label for axis in self.axes], point))
            for point in product(*(axis.values for axis in self.axes))
        )

    @property
    def size(self) -> float:
        return math.prod(len(axis.values) or math.inf for axis in self.axes)


def _axis(place: int, use: Any, option: str, given: Any, where: str) -> Axis:
    """Raises TargetError for a value that the pass does not take."""
    between = isinstance(given, dict) and given.keys() == {"low", "high"}
    tried = [*given.values()] if between else given
    if not isinstance(tried, list) or not tried or not all(isinstance(v, (str, bool, int, float)) for v in tried):
        raise TargetError(
            f"{where}: {option} is neither a list of values nor a range.",
            "A search varies an option over some values, or between two numbers.",
            f"Write {option} = [32, 64] or {option} = {{ low = 4, high = 6 }}, for instance.",
        )
    for value in tried:
        parse(type(use.options), {**plain(vars(use.options)), option: value}, where)
    if between:
        if any(type(v) not in (int, float) for v in tried) or not given["low"] < given["high"]:
            raise TargetError(
                f"{where}: {option} = {given} is no range of numbers.", "", "Write low and high, the larger second."
            )
        return Axis(place, use.declaration.name, option, (), given["low"], given["high"])
    return Axis(place, use.declaration.name, option, tuple(dict.fromkeys(tried)))


def read(table: Mapping[str, Any], uses: Sequence[Any], where: str) -> Search:
    """[search] of a target with these passes. Raises TargetError."""
    ranges = {key: value for key, value in table.items() if isinstance(value, dict)}
    settings = parse(Settings, {key: value for key, value in table.items() if key not in ranges}, where)
    places = {use.declaration.name: place for place, use in enumerate(uses)}
    axes = []
    for name, options in ranges.items():
        if name not in places:
            raise TargetError(f"{where}: the target has no pass {name!r}.", "", nearest(name, places))
        place = places[name]
        axes += [_axis(place, uses[place], o, given, f"{where}: {name}") for o, given in options.items()]
    if not axes:
        raise TargetError(
            f"{where}: there is nothing to vary.",
            "It names no options of the target's passes.",
            "Add a table such as [search.quantize_rtn] with block_size = [32, 64, 128].",
        )
    return Search(settings, tuple(axes))
