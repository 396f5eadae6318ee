"""Whether a second build gave the same, of which bytes: build/reproduced/<target>.json, and in the target's manifest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import paths, results
from onnxmake.build.files import read_record, write_record
from onnxmake.build.target import Target

VERDICTS = ("byte-equal", "graph-equal", "numerically equal", "measured", "different")  # from the best to the worst


def _path(target: Target) -> Path:
    return paths.BUILD / "reproduced" / f"{target.name}.json"


def note(target: Target, steps: Sequence[Mapping[str, Any]], varied: Mapping[str, str]) -> None:
    """Keep the verdict on each step, also in dist/<target>/manifest.json."""
    files = results.delivered(target)["files"]
    write_record(_path(target), {"files": files, "steps": list(steps), "varied": dict(varied)})
    results.amend(target, reproduced=summary(target, files))


def summary(target: Target, files: Mapping[str, list]) -> dict[str, Any] | None:
    """What the manifest of exactly these files says of it; None where they were not built a second time."""
    found = read_record(_path(target))
    if not found or found["files"] != files:
        return None
    return {name: found[name] for name in ("steps", "varied")}


def worst(found: Mapping[str, Any] | None) -> str:
    """The verdict on all steps of a summary together; empty where there is none."""
    return max((step["verdict"] for step in found["steps"]), key=VERDICTS.index, default="") if found else ""
