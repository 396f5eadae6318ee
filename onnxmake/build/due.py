"""Which targets are due: those whose recipe is that of no release in a folder of releases, or of their provenance alone."""

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
Released = dict[str, list[tuple[str, Mapping[str, Any] | None]]]  # target -> (version, recipe if it is told) of each


def _read(file: Path) -> tuple[str, str, Mapping[str, Any] | None]:
    """Target, version and recipe. Raises StoreError."""
    try:
        built = read_json(file)["predicate"]["buildDefinition"]
        asked, inner = built["externalParameters"], built["internalParameters"]
        steps = [{name: value for name, value in step.items() if name != "key"} for step in inner["steps"]]
        told = {"origin": inner["origin"], "steps": steps} if "origin" in inner else None
        return asked["target"], asked["version"], told
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{paths.shown(file)} is no provenance of a release: {error}.",
            "It is damaged, or another program's.",
            "Fetch it again, or remove it: a target without a release is due.",
        ) from error


def released(folder: Path) -> Released:
    """What is told by every provenance in `folder`, at any depth. Raises StoreError."""
    if not folder.is_dir():
        raise StoreError(
            f"{folder} is no folder.", "--since names the folder with the last releases.", "--since dist/releases"
        )
    found: Released = {}
    for file in sorted(folder.rglob(PROVENANCE)):
        target, version, told = _read(file)
        found.setdefault(target, []).append((version, told))
    return found


def _reasons(known: Sequence[tuple[str, Mapping[str, Any] | None]], now: Mapping[str, Any]) -> list[str]:
    """What differs from the release that is nearest; empty where there is one of this recipe."""
    told = [(recipe.difference(old, now), version) for version, old in known if old is not None]
    if not told:
        return [f"{known[0][0]} tells no recipe" if known else "not released yet"]
    lines, version = min(told, key=lambda one: len(one[0]))
    return [f"since {version}: {line}" for line in lines]


def due(plan: Plan, names: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Target -> why, of those that are due; one whose checkpoint cannot be read is, too: its build will say so. Raises StoreError."""
    found, known = {}, released(folder)
    for name in names:
        try:
            now = json.loads(canonical_json(recipe.of(plan.targets[name][1])))  # as a file has it
            found[name] = _reasons(known.get(name, []), now)
        except OnnxmakeError as error:
            found[name] = [f"it will fail: {error.fact}"]
    return {name: lines for name, lines in found.items() if lines}


def show(found: Mapping[str, Sequence[str]]) -> None:
    for name, (first, *more) in found.items():
        say(f"{name}: {first}{f' and {len(more)} more' if more else ''}")
    if not found:
        say("nothing is due: every target's recipe is that of a release")
