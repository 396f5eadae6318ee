"""All that a release's papers say: of one target or of several of the same checkpoint, gathered once."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmake.build import paths, recipe
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.plan import Step
from onnxmake.build.releases import ReleaseFile
from onnxmake.build.settings import setting
from onnxmake.build.source import DERIVED
from onnxmake.build.target import Target
from onnxmake.errors import TargetError
from onnxmake.release.licence import licence_of
from onnxmake.release.package import File, contents
from onnxmake.release.part import Part, part_of
from onnxmake.release.speeds import Speeds, measured

BESIDE = (".oci", ".tar.zst")  # how the names end of what stands beside a release's folder
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
    licence: Mapping[str, str]  # license, license_name, license_link
    repo: str | None  # of the checkpoint on the hub
    source: str  # the same with its commit, or the folder as the target names it
    revision: str | None
    checkpoint: Mapping[str, str]  # name -> digest
    config: Mapping[str, Any]  # the checkpoint's config.json
    origin: Mapping[str, Any]  # of the recipe
    parts: Sequence[Part]  # one for each device
    files: Mapping[str, File]  # of the models: name in the release -> file
    speeds: Speeds = field(default_factory=dict)  # if the card is to tell them

    @property
    def generates(self) -> bool:
        return all(part.generates for part in self.parts)

    @property
    def task(self) -> str:
        """What the model is for, of the hub's list."""
        named = (self.config.get("architectures") or [""])[0]
        found = (task for end, task in TASKS.items() if named.endswith(end))
        return "text-generation" if self.generates else next(found, "feature-extraction")

    @property
    def locks(self) -> dict[str, str]:
        """Environment -> digest of its lock."""
        return {s["environment"]["name"]: s["environment"]["lock"] for part in self.parts for s in part.steps}

    @property
    def packages(self) -> list[tuple[str, str]]:
        """Name and version of all that is locked in the steps' environments."""
        texts = [(paths.CONTAINERS / name / "requirements.lock").read_text("utf-8") for name in self.locks]
        return sorted({package for text in texts for package in LOCKED.findall(text)})


def tool_version() -> str:
    return tomllib.loads((paths.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def base_image() -> tuple[str, str]:
    """Name and digest of the image that environments stand on."""
    named = tomllib.loads((paths.CONTAINERS / "base.toml").read_text("utf-8"))["image"]
    name, _, digest = named.partition("@sha256:")
    return name, digest


def _licence(targets: Sequence[Target], folder: Path) -> dict[str, str]:
    """Raises SourceError where nobody says it, TargetError where targets say different things."""
    first, *others = targets
    found = licence_of(folder, first.release.license, first.source.repo or str(first.source.path))
    for other in others:
        if licence_of(folder, other.release.license, first.name) != found:
            raise TargetError(
                f"{first.name} and {other.name} say different licences.",
                "[release] license of one is not that of the other.",
                "Correct it: a release is under one licence.",
            )
    return found


def gathered(targets: Sequence[tuple[Target, Sequence[Step]]], file: ReleaseFile | None = None) -> Facts:
    """Of one target, or of those that a release file names. Raises CheckFailed for what has not passed its check, SourceError where
    the licence is not known, TargetError."""
    of, steps = targets[0]
    parts = [part_of(target, steps) for target, steps in targets]
    source, record = of.source, steps[0].checkpoint.record
    name, stated = (file.name, file.keys.version) if file else (of.name, of.release.version)
    files = contents(name, parts)
    listing = canonical_json({n: [f.digest, f.size] for n, f in files.items()})
    version = setting("version") or stated or digest_text(listing)[:12]
    if not VERSION.fullmatch(version) or version.endswith(BESIDE):
        raise TargetError(
            f"version = {version!r} is none.", "It becomes part of a folder's name.", "Write 1.0.0, for instance."
        )
    folder = Path(record["folder"])
    return Facts(
        name,
        version,
        file.description if file else of.description,
        _licence([target for target, _ in targets], folder),
        source.repo,
        f"{source.repo}@{source.revision}" if source.repo else Path(source.path).name,
        source.revision,
        {n: sha for n, sha in sorted(record["files"].items()) if n not in DERIVED},
        json.loads((folder / "config.json").read_text("utf-8")),
        recipe.of_checkpoint(steps[0].checkpoint),
        parts,
        files,
        measured([target for target, _ in targets]),
    )
