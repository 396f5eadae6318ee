"""The checkpoint: found or fetched, its headers checked, described by a manifest. Its bytes stay where they are."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.digest import digest_file
from onnxmake.build.files import canonical_json, digest_text, read_record, write_atomically, write_record
from onnxmake.build.target import Source
from onnxmake.errors import CheckpointError, SourceError, StoreError
from onnxmake.model.prequantized import logical
from onnxmake.model.safetensors import read_checkpoint
from onnxmake.model.schemes import scheme_of

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "*.safetensors",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.*",
    "preprocessor_config.json",
    "processor_config.json",
)
PAPERS = ("README.md", "LICENSE*", "NOTICE*")  # not read by builds: what a release needs to know
SHAPELESS = {
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "initializer_range",
    "transformers.js_config",
    "quantization_config",
}  # config keys that shape no graph
DERIVED = ("architecture.json", "tensors.json")  # what export reads in place of config.json and the weights


@dataclass(frozen=True)
class Checkpoint:
    """A source as one build sees it.

    Where `folder` is given, the files are there; else `source` names a hub commit to fetch.
    """

    source: Source
    folder: Path | None

    @functools.cached_property
    def id(self) -> str:
        name = str(self.folder) if self.folder else f"{self.source.repo}@{self.source.revision}"
        return f"{name.rstrip('/').split('/')[-1].split('@')[0].lower()}-{digest_text(name)[:10]}"

    @functools.cached_property
    def manifest(self) -> Path:
        return paths.BUILD / "sources" / self.id / "manifest.json"

    @property
    def record(self) -> dict[str, Any]:
        """What the manifest says: folder, file -> sha256, who saved it. Raises StoreError where it is missing or damaged."""
        return recorded(self.manifest)


def recorded(manifest: Path) -> dict[str, Any]:
    record = read_record(manifest)
    if record is None:
        raise StoreError(
            f"{paths.shown(manifest)} is missing or damaged.",
            "Something outside removed it while a build ran.",
            "Build again.",
        )
    return record


def describe(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The manifest of a checkpoint folder, and the content of the derived files.

    Derived are what export reads: architecture.json, the config's keys that shape the graph, and tensors.json, name ->
    shape as an unquantised checkpoint has them. Raises SourceError where the folder or config.json is missing,
    CheckpointError where a file is damaged, UnsupportedError where the weights are quantised in an unknown way.
    """
    if not folder.is_dir():
        raise SourceError(
            f"The checkpoint folder {folder} does not exist.",
            "source.path is relative to the target file.",
            "Correct path, or give doit source=FOLDER.",
        )
    config = folder / "config.json"
    if not config.is_file():
        raise SourceError(
            f"{folder} holds no config.json.",
            "It is not a Hugging Face checkpoint, or one folder above or below it.",
            "Point source at the folder with config.json.",
        )
    try:
        settings = json.loads(config.read_text("utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise CheckpointError(
            f"config.json is not a JSON object: {error}.",
            "The file is damaged, or an error page was saved in its place.",
            "Fetch the file again.",
        ) from error
    scheme = scheme_of(settings)
    raw = read_checkpoint(folder)
    derived = {
        "architecture.json": canonical_json({k: v for k, v in settings.items() if k not in SHAPELESS}),
        "tensors.json": canonical_json({name: list(t.shape) for name, t in logical(raw, scheme).items()}),
    }
    used = {t.path.name for t in raw.values()}
    files = sorted(
        {
            p
            for pattern in FILES
            for p in folder.glob(pattern)
            if p.is_file() and (p.suffix != ".safetensors" or p.name in used)
        }
    )
    manifest = {
        "folder": str(folder),
        "files": {p.name: digest_file(p) for p in files} | {name: digest_text(text) for name, text in derived.items()},
        "saved_by": settings.get("transformers_version"),
    }
    return manifest, derived


def save_manifest(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the checkpoint's manifest and derived files, the manifest last."""
    manifest, derived = describe(folder)
    for name, text in derived.items():
        write_atomically(checkpoint.manifest.parent / name, text)
    write_record(checkpoint.manifest, manifest)


def is_current(checkpoint: Checkpoint) -> bool:
    """Whether the manifest still says what the files are. Costs one stat a file."""
    manifest = read_record(checkpoint.manifest)
    if manifest is None or checkpoint.folder not in (None, Path(manifest["folder"])):
        return False
    folder = Path(manifest["folder"])
    present = {p.name for pattern in FILES for p in folder.glob(pattern) if p.is_file()} if folder.is_dir() else set()
    originals = set(manifest["files"]) - set(DERIVED)
    places = {name: folder if name in originals else checkpoint.manifest.parent for name in manifest["files"]}
    return (
        originals <= present
        and all((places[name] / name).exists() for name in DERIVED)
        and all(digest_file(places[name] / name) == sha for name, sha in manifest["files"].items())
        and not ({n for n in present - originals if not n.endswith(".safetensors") or n == "model.safetensors"})
    )
