"""Targets to steps. Steps that read the same with the same options are one, whichever target asks."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.digest import canonical_json, digest_text
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target, Use


@dataclass(frozen=True)
class Step:
    """One pass with given options on a given input; `before` is None where it reads only the checkpoint."""

    use: Use
    checkpoint: Checkpoint
    before: Step | None

    @property
    def name(self) -> str:
        return self.use.declaration.name

    @functools.cached_property
    def id(self) -> str:
        identity = [
            self.name,
            asdict(self.use.options),
            self.use.may_skip,
            self.before.id if self.before else self.checkpoint.id,
        ]
        return f"{self.name}-{digest_text(canonical_json(identity))[:12]}"

    @property
    def manifest(self) -> Path:
        return paths.BUILD / "steps" / f"{self.id}.json"

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
