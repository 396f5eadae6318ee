"""All that a release's papers say, gathered once from records of a build that passed its check."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxmake.build import history, paths, quality, recipe, reproduced, results, show, store
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.plan import Step
from onnxmake.build.settings import setting
from onnxmake.build.source import DERIVED
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed, TargetError
from onnxmake.release.licence import licence_of

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]*")
TASKS = {  # how the name of an architecture ends -> the hub's name of what it is for
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForMultipleChoice": "multiple-choice",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
}
LOCKED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Facts:
    """Digests are sha256, in hex."""

    name: str
    version: str
    description: str
    device: str
    licence: Mapping[str, str]  # license, license_name, license_link
    repo: str | None  # of the checkpoint on the hub
    source: str  # the same with its commit, or the folder as the target names it
    revision: str | None
    files: Mapping[str, tuple[str, int]]  # of the model: name -> digest, bytes
    checkpoint: Mapping[str, str]  # name -> digest
    config: Mapping[str, Any]  # the checkpoint's config.json
    definition: str  # the target with every default, as TOML
    steps: Sequence[Mapping[str, Any]]  # of the recipe, with their keys
    quality: Mapping[str, Any] | None  # metrics, and of what
    gates: Mapping[str, float]
    again: Mapping[str, str]  # pass -> how a second build, elsewhere and without the store, compares; empty: not tried
    origin: Mapping[str, Any] = field(default_factory=dict)  # of the recipe

    @property
    def generates(self) -> bool:
        return "genai_config.json" in self.files

    @property
    def task(self) -> str:
        """What the model is for, of the hub's list."""
        named = (self.config.get("architectures") or [""])[0]
        found = (task for end, task in TASKS.items() if named.endswith(end))
        return "text-generation" if self.generates else next(found, "feature-extraction")

    @property
    def locks(self) -> dict[str, str]:
        """Environment -> digest of its lock."""
        return {step["environment"]["name"]: step["environment"]["lock"] for step in self.steps}

    @property
    def packages(self) -> dict[str, str]:
        """Name -> version, of all that is locked in the steps' environments."""
        texts = [(paths.CONTAINERS / name / "requirements.lock").read_text("utf-8") for name in self.locks]
        return dict(sorted(package for text in texts for package in LOCKED.findall(text)))


def tool_version() -> str:
    return tomllib.loads((paths.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def base_image() -> tuple[str, str]:
    """Name and digest of the image that environments stand on."""
    named = tomllib.loads((paths.CONTAINERS / "base.toml").read_text("utf-8"))["image"]
    name, _, digest = named.partition("@sha256:")
    return name, digest


def gathered(target: Target, steps: Sequence[Step]) -> Facts:
    """Raises CheckFailed for what has not passed its check, SourceError where the licence is not known, TargetError."""
    if reason := quality.lacking(target):
        raise CheckFailed(
            f"{target.name} is not released: {reason.splitlines()[0]}",
            "A release is of exactly the bytes that were checked.",
            f"doit check:{target.name}",
        )
    built, source, record = results.delivered(target), target.source, steps[0].checkpoint.record
    if source.path:  # by its name: where it lies is nobody's business
        source = replace(source, path=Path(source.path).name)
    folder, files = Path(record["folder"]), {name: tuple(given) for name, given in sorted(built["files"].items())}
    version = setting("version") or target.release.version or digest_text(canonical_json(files))[:12]
    if not VERSION.fullmatch(version):
        raise TargetError(
            f"version = {version!r} is none.", "It becomes part of a folder's name.", "Write 1.0.0, for instance."
        )
    documents = [(entry["key"], store.document(entry["key"])) for _, entry in history.chain(target.name)]
    return Facts(
        target.name,
        version,
        target.description,
        target.device,
        licence_of(folder, target.release.license, source.repo or str(source.path)),
        source.repo,
        f"{source.repo}@{source.revision}" if source.repo else str(source.path),
        source.revision,
        files,
        {name: sha for name, sha in sorted(record["files"].items()) if name not in DERIVED},
        json.loads((folder / "config.json").read_text("utf-8")),
        show.toml(replace(target, source=source)),
        [recipe.of_step(document, step.use.files) | {"key": k} for (k, document), step in zip(documents, steps)],
        built["quality"],
        target.check.gates,
        {one["pass"]: one["verdict"] for one in (reproduced.summary(target, built["files"]) or {"steps": []})["steps"]},
        recipe.of_checkpoint(steps[0].checkpoint),
    )
