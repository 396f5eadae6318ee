"""Which releases are due: of targets, or of release files, whose recipe is that of none in a folder of releases, or of their provenance alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import paths, recipe
from onnxmake.build.files import canonical_json, read_json
from onnxmake.build.plan import Plan
from onnxmake.build.report import say
from onnxmake.errors import OnnxmakeError, StoreError

PROVENANCE = "provenance.intoto.json"
Released = dict[str, list[tuple[str, Mapping[str, Any] | None]]]  # name -> (version, recipe if it is told) of each


def _read(file: Path) -> tuple[str, str, Mapping[str, Any] | None]:
    """Name, version and recipe. Raises StoreError."""
    try:
        built = read_json(file)["predicate"]["buildDefinition"]
        asked, inner = built["externalParameters"], built["internalParameters"]
        steps = {name: [_without_key(step) for step in chain] for name, chain in inner["steps"].items()}
        told = {"origin": inner["origin"], "steps": steps} if "origin" in inner else None
        return asked["release"], asked["version"], told
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{paths.shown(file)} is no provenance of a release: {error}.",
            "It is damaged, or another program's.",
            "Fetch it again, or remove it: what was never released is due.",
        ) from error


def _without_key(step: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name != "key"}


def released(folder: Path) -> Released:
    """What is told by every provenance in `folder`, at any depth. Raises StoreError."""
    if not folder.is_dir():
        raise StoreError(
            f"{folder} is no folder.", "--since names the folder with the last releases.", "--since dist/releases"
        )
    found: Released = {}
    for file in sorted(folder.rglob(PROVENANCE)):
        name, version, told = _read(file)
        found.setdefault(name, []).append((version, told))
    return found


def _reasons(known: Sequence[tuple[str, Mapping[str, Any] | None]], now: Mapping[str, Any]) -> list[str]:
    """What differs from the release that is nearest; empty where there is one of this recipe."""
    told = [(recipe.difference(old, now), version) for version, old in known if old is not None]
    if not told:
        return [f"{known[0][0]} tells no recipe" if known else "not released yet"]
    lines, version = min(told, key=lambda one: len(one[0]))
    return [f"since {version}: {line}" for line in lines]


def due(plan: Plan, names: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Name -> why, of those that are due; one whose checkpoint cannot be read is, too: its build will say so. Raises StoreError."""
    found: dict[str, list[str]] = {}
    known = released(folder)
    for name in names:
        try:
            several = plan.releases[name].keys.targets if name in plan.releases else (name,)
            now = recipe.of({target: plan.targets[target][1] for target in several})
            now = json.loads(canonical_json(now))  # as a file has it
            found[name] = _reasons(known.get(name, []), now)
        except OnnxmakeError as error:
            found[name] = [f"it will fail: {error.fact}"]
    return {name: lines for name, lines in found.items() if lines}


def show(found: Mapping[str, Sequence[str]]) -> None:
    for name, (first, *more) in found.items():
        say(f"{name}: {first}{f' and {len(more)} more' if more else ''}")
    if not found:
        say("nothing is due: every recipe is that of a release")
