"""All that the page says, gathered from records as plain data. What is damaged is named and left out."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmake.build import (
    compare,
    gates,
    measurements,
    paths,
    quality,
    reproduced,
    results,
    show,
    speed,
    support,
)
from onnxmake.build.files import read_json
from onnxmake.build.measurements import Measured
from onnxmake.build.plan import Plan
from onnxmake.build.plan import Step as Planned
from onnxmake.build.rows import Row
from onnxmake.build.source import DERIVED
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed, OnnxmakeError
from onnxmake.page import released
from onnxmake.page.chain import Step, steps_of
from onnxmake.page.released import Released
from onnxmake.release.facts import base_image, tool_version

DAMAGED = (
    OnnxmakeError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)  # what records of any shape lead to


@dataclass(frozen=True)
class Built:
    """A built target. Digests are sha256, in hex."""

    target: Target
    files: Mapping[str, tuple[str, int]]
    digest: str  # of all files together
    status: str
    proof: str | None
    definition: str  # with every default
    steps: Sequence[Step]
    checkpoint: Mapping[str, str]  # file -> digest
    lacking: str  # why its check is not passed
    figures: Sequence[Sequence[str]]  # as gates tell them
    counted: str  # what they were found on
    bench: Mapping[str, Any] | None
    again: Mapping[str, Any] | None  # how a second build compares
    past: Sequence[Measured]
    releases: Sequence[Released]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files.values())


@dataclass(frozen=True)
class Site:
    version: str
    base: tuple[str, str]  # image that environments stand on, and its digest
    built: Mapping[str, Built]
    models: Mapping[str, Sequence[Row]]  # as `doit compare` has them
    releases: Sequence[Released]
    architectures: Mapping[str, support.Row]
    damaged: Sequence[str]


def _known(target: Target, manifest: Mapping[str, Any]) -> dict[str, float]:
    known = quality.metrics(target, manifest)
    if target.check.than:
        with contextlib.suppress(CheckFailed):  # not measured, as its row says
            known["decode"] = speed.ratio(target, target.check.than)
    return known


def _counted(target: Target, manifest: Mapping[str, Any]) -> str:
    found = quality.answer(target, "evaluation", quality.evaluation_key(target, manifest))
    return f"{found['counted']:,} {found['of']}" if found else ""


def _built(target: Target, steps: Sequence[Planned], releases: Sequence[Released]) -> Built:
    manifest = read_json(paths.DIST / target.name / "manifest.json")
    files = {name: (str(sha), int(size)) for name, (sha, size) in sorted(manifest["files"].items())}
    source = replace(target.source, path=Path(target.source.path).name) if target.source.path else target.source
    return Built(
        target,
        files,
        measurements.digest(manifest["files"]),
        str(manifest["status"]),
        manifest["proof"],
        show.toml(replace(target, source=source)),
        steps_of(target, manifest["steps"]),
        {name: sha for name, sha in sorted(steps[0].checkpoint.record["files"].items()) if name not in DERIVED},
        quality.lacking(target),
        gates.rows(target.check, _known(target, manifest)),
        _counted(target, manifest),
        results.of(target, manifest["files"]),
        reproduced.summary(target, manifest["files"]),
        measurements.past(target.name),
        [release for release in releases if target.name in release.targets],
    )


def gathered(plan: Plan) -> Site:
    """Of all targets that are built, and all releases."""
    damaged: list[str] = []

    def whole(name: str, read: Callable, *arguments: Any) -> list:
        try:
            return [read(*arguments)]
        except DAMAGED as error:
            damaged.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return []

    releases = [r for f in released.folders() for r in whole(f"dist/releases/{f.name}", released.read, f)]
    built, models = {}, {}
    for name, (target, steps) in plan.targets.items():
        if (paths.DIST / name / "manifest.json").exists():
            for one in whole(f"dist/{name}", _built, target, steps, releases):
                if whole(f"dist/{name}", compare.grouped, plan, [name]):
                    built[name] = one
    models = compare.grouped(plan, [*built])
    return Site(tool_version(), base_image(), built, models, releases, support.read(), damaged)
