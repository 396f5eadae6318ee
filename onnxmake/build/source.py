"""The checkpoint: found or fetched, its headers checked, described by a manifest. Its bytes stay where they are."""

import json
from dataclasses import dataclass
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.digest import canonical_json, digest_file, digest_text
from onnxmake.build.files import read_json, write_atomically
from onnxmake.build.target import Source
from onnxmake.errors import CheckpointError, SourceError
from onnxmake.model.safetensors import read_checkpoint

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "*.safetensors",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
)
SHAPELESS = {
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "initializer_range",
    "transformers.js_config",
}  # config keys that shape no graph
DERIVED = ("architecture.json", "tensors.json")  # what export reads in place of config.json and the weights


@dataclass(frozen=True)
class Checkpoint:
    """A source as one build sees it.

    Where `folder` is given, the files are there; else `source` names a hub commit to fetch.
    """

    source: Source
    folder: Path | None

    @property
    def id(self) -> str:
        name = str(self.folder) if self.folder else f"{self.source.repo}@{self.source.revision}"
        return f"{name.rstrip('/').split('/')[-1].split('@')[0].lower()}-{digest_text(name)[:10]}"

    @property
    def manifest(self) -> Path:
        return paths.BUILD / "sources" / self.id / "manifest.json"


def describe(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(file -> sha256, derived file -> content) of a checkpoint folder.

    Derived are what export reads: architecture.json, the config's keys that shape the graph, and tensors.json, name ->
    shape. Raises SourceError where the folder or config.json is missing, CheckpointError where a file is damaged.
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
    tensors = read_checkpoint(folder)
    derived = {
        "architecture.json": canonical_json({k: v for k, v in settings.items() if k not in SHAPELESS}),
        "tensors.json": canonical_json({name: list(t.shape) for name, t in tensors.items()}),
    }
    used = {t.path.name for t in tensors.values()}
    files = sorted(
        {
            p
            for pattern in FILES
            for p in folder.glob(pattern)
            if p.is_file() and (p.suffix != ".safetensors" or p.name in used)
        }
    )
    return {p.name: digest_file(p) for p in files}, derived


def save_manifest(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the checkpoint's manifest and derived files, the manifest last."""
    files, derived = describe(folder)
    settings = read_json(folder / "config.json")
    manifest = {
        "folder": str(folder),
        "files": files | {name: digest_text(text) for name, text in derived.items()},
        "saved_by": settings.get("transformers_version"),
    }
    for name, text in derived.items():
        write_atomically(checkpoint.manifest.parent / name, text)
    write_atomically(checkpoint.manifest, canonical_json(manifest))


def is_current(checkpoint: Checkpoint) -> bool:
    """Whether the manifest still says what the files are. Costs one stat a file."""
    if not checkpoint.manifest.exists():
        return False
    manifest = read_json(checkpoint.manifest)
    folder = Path(manifest["folder"])
    if checkpoint.folder not in (None, folder):
        return False
    originals = {name: sha for name, sha in manifest["files"].items() if name not in DERIVED}
    present = {p.name for pattern in FILES for p in folder.glob(pattern) if p.is_file()} if folder.is_dir() else set()
    return (
        set(originals) <= present
        and all((checkpoint.manifest.parent / name).exists() for name in DERIVED)
        and all(digest_file(folder / name) == sha for name, sha in originals.items())
        and not ({n for n in present - set(originals) if not n.endswith(".safetensors") or n == "model.safetensors"})
    )
