"""One line of the table in mapping.py: what a pass of Olive means here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxmake.olive.rules import Place, Rule, Settings


@dataclass(frozen=True)
class Entry:
    """Settings that an Olive pass always means, its options in the order in which their settings count, and what only
    several options say together.

    `searched`: the values that Olive's search tries of an option which the workflow leaves open. `instead`: what it is in its place
    with some values of its options.
    """

    settings: Settings = field(default_factory=dict)
    options: Mapping[str, Rule] = field(default_factory=dict)
    whole: Callable[[Mapping[str, Any], Place], Settings] = lambda options, place: {}
    searched: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    instead: Callable[[Mapping[str, Any]], "Entry | None"] = lambda options: None
