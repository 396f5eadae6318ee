"""A target that was built and passed its check, as a release's papers tell of it: gathered from records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmake.build import history, quality, recipe, reproduced, results, show, store
from onnxmake.build.plan import Step
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed


@dataclass(frozen=True)
class Part:
    """Digests are sha256, in hex."""

    name: str
    description: str
    device: str
    files: Mapping[str, tuple[str, int]]  # in dist/<name>: name -> digest, bytes
    definition: str  # the target with every default, as TOML
    steps: Sequence[Mapping[str, Any]]  # of the recipe, with their keys
    quality: Mapping[str, Any] | None  # metrics, and of what
    gates: Mapping[str, float]
    again: Mapping[str, str]  # pass -> how a second build, elsewhere and without the store, compares; empty: not tried

    @property
    def generates(self) -> bool:
        return "genai_config.json" in self.files

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files.values())


def part_of(target: Target, steps: Sequence[Step]) -> Part:
    """Raises CheckFailed for what has not passed its check."""
    if reason := quality.lacking(target):
        raise CheckFailed(
            f"{target.name} is not released: {reason.splitlines()[0]}",
            "A release is of exactly the bytes that were checked.",
            f"doit check:{target.name}",
        )
    built, source = results.delivered(target), target.source
    if source.path:  # by its name: where it lies is nobody's business
        source = replace(source, path=Path(source.path).name)
    documents = [(entry["key"], store.document(entry["key"])) for _, entry in history.chain(target.name)]
    return Part(
        target.name,
        target.description,
        target.device,
        {name: tuple(given) for name, given in sorted(built["files"].items())},
        show.toml(replace(target, source=source)),
        [recipe.of_step(document, step.use) | {"key": key} for (key, document), step in zip(documents, steps)],
        quality.summary(target, built["files"]),
        target.check.gates,
        {one["pass"]: one["verdict"] for one in (reproduced.summary(target, built["files"]) or {"steps": []})["steps"]},
    )
