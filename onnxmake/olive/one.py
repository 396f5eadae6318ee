"""What one entry of `passes` is here: settings, and what it leaves open to a search."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
from onnxmake.olive import workflow
from onnxmake.olive.entry import Entry
from onnxmake.olive.mapping import ALIASES, COMMON, PASSES, REFUSED
from onnxmake.olive.rules import Place, Rule, Settings, WrongType
from onnxmake.olive.told import Refusal, Told
from onnxmake.olive.workflow import Pass

SEARCHED, DEFAULT = "SEARCHABLE_VALUES", "DEFAULT_VALUE"
PARAMETER = "olive_parameter_type"
LISTED, ALL = "listed", "all"  # what a search varies: what the workflow lists, or what Olive's own table has, too
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


def _values(where: str, item: str, value: Any, lists: bool) -> list[Any]:
    """Those that the workflow lists for a search; one where it lists none. Raises TargetError."""
    if isinstance(value, dict) and PARAMETER in value:
        values = value.get("support") if value.get("type", "Categorical") in ("Categorical", "Boolean") else None
        if not isinstance(values, list) or not values:
            raise workflow.wrong(where, f"{item}.support", value.get("support"), "a list of values")
        return values
    return value if lists and isinstance(value, list) and value else [value]


def _applied(where: str, one: Pass, name: str, rule: Rule, value: Any, place: Place) -> Settings:
    """The rule's settings; none where it refuses, which is noted: a workflow is told all at once. Raises TargetError."""
    item = f"{one.item}.{name}".rstrip(".")
    try:
        return rule(value, place)
    except WrongType as error:
        raise workflow.wrong(where, item, value, str(error)) from None
    except Refusal as refusal:
        place.told.refuse(item, refusal)
        return {}


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once; lists and tables, too."""
    return [*{repr(value): value for value in values}.values()]


def _read(where: str, one: Pass, entry: Entry, given: Mapping[str, Any], place: Place) -> Settings:
    """Settings of the pass with these options. Raises TargetError."""
    entry = entry.instead(given) or entry
    out = dict(entry.settings)
    for name, rule in {**COMMON, **entry.options}.items():
        if name in given:
            out |= _applied(where, one, name, rule, given[name], place)
    return out | _applied(where, one, "", entry.whole, given, place)


def _tried(where: str, one: Pass, entry: Entry, given: Mapping[str, Any], out: Settings, place: Place) -> Open:
    """What Olive's search varies of the options that are left open, as far as it varies options here. Notes the rest."""
    open_: Open = {}
    fixed = []
    apart = dataclasses.replace(place, told=Told())
    for name in (name for name in entry.searched if one.options.get(name, SEARCHED) == SEARCHED):
        found = [_read(where, one, entry, {**given, name: value}, apart) for value in entry.searched[name]]
        alike = [some for some in (out, *found) if _kind(some) == _kind(out)]
        values = {label: _distinct(some[label] for some in alike if label in some) for some in alike for label in some}
        axes = {label: tried for label, tried in values.items() if len(tried) > 1}
        open_ |= axes
        fixed += [] if axes else [name]
    if fixed:
        place.note(f"Olive's search varies {', '.join(fixed)}, too: a search here leaves that as it is")
    return open_


def _differing(out: Settings, others: Iterable[Settings]) -> Open:
    """Label -> its values where they are several; what only some of the settings have is None in the others."""
    read = [out, *others]
    labels = dict.fromkeys(label for some in read for label in some)
    found = {label: _distinct(some.get(label) for some in read) for label in labels}
    return {label: values for label, values in found.items() if len(values) > 1}


def _settings(where: str, one: Pass, search: str, place: Place) -> tuple[Settings, Open]:
    """Of one Olive pass, and what a search varies of them. Raises TargetError, Refusal."""
    entry = _entry(where, one)
    workflow.known(where, one.item, one.options, {**COMMON, **entry.options})
    given = {key: value for key, value in one.options.items() if value not in (DEFAULT, SEARCHED)}
    if not search and (sought := [key for key, value in one.options.items() if value == SEARCHED]):
        raise TargetError(
            f"{where}: {one.item}.{sought[0]} = {SEARCHED!r} without a search_strategy.",
            "Olive takes no values to try where nothing is searched.",
            f"Leave {sought[0]} out, or add search_strategy and an evaluator.",
        )
    listed = {
        name: _values(where, f"{one.item}.{name}", value, bool(search) and name in entry.searched)
        for name, value in given.items()
    }
    first = {name: values[0] for name, values in listed.items()}
    out = _read(where, one, entry, first, place)
    open_: Open = {}
    for name, values in listed.items():
        if len(values) > 1:
            others = [_read(where, one, entry, {**first, name: value}, place) for value in values[1:]]
            open_ |= _differing(out, others)
            if not search:
                place.note(f"of the values of {name}, the first: there is no search_strategy")
    if search == ALL and not one.fixed:
        open_ |= _tried(where, one, entry.instead(first) or entry, first, out, place)
    return out, open_


def _kind(found: Settings) -> set[str]:
    """The passes that settings are of."""
    return {label.split(".")[0] for label in found} | {str(found.get("quantize.method"))}


def settings(where: str, several: tuple[Pass, ...], search: str, place: Place) -> tuple[Settings, Open]:
    """The first; with a search, where the others differ is left open. Raises TargetError, Refusal.

    `search`: "" where there is none, LISTED or ALL; of alternatives, what they list is varied.
    """
    if len(several) > 1 and search == ALL:
        search = LISTED
        place.note("of alternatives, a search here varies what they list")
    out, axes = _settings(where, several[0], search, place)
    if not search and len(several) > 1:
        place.note("of alternatives, the first: there is no search_strategy")
        return out, axes
    for other in several[1:]:
        found, more = _settings(where, other, search, place)
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
