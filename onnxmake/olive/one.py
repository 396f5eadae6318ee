"""What one entry of `passes` is here: settings, and what it leaves open to a search."""

from collections.abc import Iterable
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
from onnxmake.olive import workflow
from onnxmake.olive.mapping import ALIASES, COMMON, PASSES, REFUSED, Entry
from onnxmake.olive.rules import Place, Rule, Settings, WrongType
from onnxmake.olive.told import Refusal
from onnxmake.olive.workflow import Pass

SEARCHED = "SEARCHABLE_VALUES"
PARAMETER = "olive_parameter_type"
Open = dict[str, list]  # setting -> values to try


def _entry(where: str, one: Pass) -> Entry:
    """What the table says of the pass, whose name may be in any letters. Raises TargetError, Refusal."""
    names = {name.lower(): name for name in (*PASSES, *ALIASES, *REFUSED)}
    found = names.get(one.type.lower())
    if found is None:
        raise TargetError(
            f"{where}: {one.item}.type = {one.type!r} is no pass of Olive's.",
            "A typing error.",
            nearest(one.type, names.values()),
        )
    if found in REFUSED:
        why, closest = REFUSED[found]
        raise Refusal(f"{found}: {why}", closest)
    return PASSES[ALIASES.get(found, found)]


def _values(where: str, item: str, value: Any) -> list[Any]:
    """Those that a search tries; one where it is no parameter of a search. Raises TargetError, Refusal."""
    if value == SEARCHED:
        raise Refusal(
            "SEARCHABLE_VALUES are Olive's own choice", "Write the values: olive_parameter_type, type and support."
        )
    if isinstance(value, dict) and PARAMETER in value:
        values = value.get("support") if value.get("type", "Categorical") in ("Categorical", "Boolean") else None
        if not isinstance(values, list) or not values:
            raise workflow.wrong(where, f"{item}.support", value.get("support"), "a list of values")
        return values
    return [value]


def _applied(where: str, one: Pass, name: str, rule: Rule, value: Any, place: Place) -> Settings:
    """The rule's settings; none where it refuses, which is noted: a workflow is told all at once. Raises TargetError."""
    try:
        return rule(value, place)
    except WrongType as error:
        raise workflow.wrong(where, f"{one.item}.{name}".rstrip("."), value, str(error)) from None
    except Refusal as refusal:
        place.told.refused.append((f"{one.item}.{name}".rstrip("."), refusal))
        return {}


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once; lists and tables, too."""
    return [*{repr(value): value for value in values}.values()]


def _settings(where: str, one: Pass, place: Place) -> tuple[Settings, Open]:
    """Of one Olive pass, and what a search varies of them. Raises TargetError, Refusal."""
    entry = _entry(where, one)
    rules = {**COMMON, **entry.options}
    workflow.known(where, one.item, one.options, rules)
    given = {key: value for key, value in one.options.items() if value != "DEFAULT_VALUE"}
    out, open_, fixed = dict(entry.settings), {}, {}
    for name, rule in rules.items():
        if name not in given:
            continue
        tried = _values(where, f"{one.item}.{name}", given[name])
        read = [_applied(where, one, name, rule, value, place) for value in tried]
        fixed[name] = tried[0]
        out |= read[0]
        for label in {label for some in read for label in some} if len(read) > 1 else ():
            open_[label] = _distinct(some.get(label, out.get(label)) for some in read)
    whole = _applied(where, one, "", entry.whole, fixed, place)
    return out | whole, {label: values for label, values in open_.items() if len(values) > 1}


def _kind(found: Settings) -> set[str]:
    """The passes that settings are of."""
    return {label.split(".")[0] for label in found} | {str(found.get("quantize.method"))}


def settings(where: str, several: tuple[Pass, ...], searching: bool, place: Place) -> tuple[Settings, Open]:
    """The first; with a search, where the others differ is left open. Raises TargetError, Refusal."""
    out, axes = _settings(where, several[0], place)
    if not searching and len(several) > 1:
        place.note("of alternatives, the first: there is no search_strategy")
        return out, axes
    for other in several[1:]:
        found, more = _settings(where, other, place)
        if more or _kind(found) != _kind(out):
            raise Refusal(
                "its alternatives are passes of several kinds",
                "Write a workflow for each; doit compare puts them side by side.",
            )
        for label in {**out, **found}:
            values = _distinct([*axes.get(label, [out.get(label)]), found.get(label)])
            if len(values) > 1:
                axes[label] = values
    return out, axes
