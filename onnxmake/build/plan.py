"""Targets to steps. Steps that read the same with the same options are one, whichever target asks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.releases import ReleaseFile
from onnxmake.build.schema import nearest
from onnxmake.build.source import Checkpoint, recorded
from onnxmake.build.target import Target, Use
from onnxmake.errors import OnnxmakeError, TargetError


@dataclass(frozen=True)
class Step:
    """One pass with given options on a given input; `before` is None where it reads only the checkpoint."""

    use: Use
    checkpoint: Checkpoint
    before: Step | None

    @property
    def name(self) -> str:
        return self.use.declaration.name

    @property
    def chain(self) -> list[Step]:
        """The steps that lead to this one, and itself."""
        return [*(self.before.chain if self.before else []), self]

    @property
    def tuned(self) -> dict[str, list]:
        """File -> [sha256, size] of what the passes before it have put beside the checkpoint's files; of one name, the last."""
        tuning = [step for step in self.chain[:-1] if step.use.declaration.tunes]
        return {name: value for step in tuning for name, value in step.record["files"].items()}

    @functools.cached_property
    def id(self) -> str:
        identity = [
            self.name,
            vars(self.use.options),
            *map(str, self.use.files.values()),
            self.use.may_skip,
            self.before.id if self.before else self.checkpoint.id,
        ]
        return f"{self.name}-{digest_text(canonical_json(identity))[:12]}"

    @functools.cached_property
    def manifest(self) -> Path:
        return paths.BUILD.joinpath("steps", f"{self.id}.json")

    @property
    def record(self) -> dict[str, Any]:
        """What the manifest says: key, files, and how and why they were made.

        Raises StoreError where it is missing or damaged.
        """
        return recorded(self.manifest)

    @property
    def log(self) -> Path:
        return paths.BUILD / "logs" / f"{self.id}.log"


def checkpoint_of(target: Target, override: str | None = None) -> Checkpoint:
    """The target's checkpoint; `override` is the folder of doit source=..."""
    if override:
        return Checkpoint(target.source, Path(override).resolve())
    return Checkpoint(
        target.source, (target.file.parent / target.source.path).resolve() if target.source.path else None
    )


def steps_of(target: Target, checkpoint: Checkpoint) -> list[Step]:
    """The target's steps in order."""
    steps: list[Step] = []
    for use in target.passes:
        steps.append(Step(use, checkpoint, steps[-1] if steps else None))
    return steps


@dataclass(frozen=True)
class Plan:
    """Every readable target with its steps, the readable release files, and the errors of the others."""

    targets: dict[str, tuple[Target, list[Step]]]
    broken: dict[str, OnnxmakeError]
    releases: dict[str, ReleaseFile] = field(default_factory=dict)  # of several targets

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        return {steps[0].checkpoint.id: steps[0].checkpoint for _, steps in self.targets.values()}

    @property
    def steps(self) -> dict[str, Step]:
        return {step.id: step for _, steps in self.targets.values() for step in steps}

    @property
    def users(self) -> dict[str, list[str]]:
        """Step id -> names of the targets that want it."""
        names: dict[str, list[str]] = {}
        for name, (_, steps) in self.targets.items():
            for step in steps:
                names.setdefault(step.id, []).append(name)
        return names


def named(plan: Plan, arguments: Sequence[str]) -> list[str]:
    """The targets that build:NAME ... name, or all. Raises TargetError."""
    names = [name.removeprefix("build:") for name in arguments if name != "build"] or list(plan.targets)
    for name in names:
        if name in plan.broken:
            raise plan.broken[name]
        if name not in plan.targets:
            raise TargetError(f"No target is named {name!r}.", "", nearest(name, plan.targets))
    return names
