"""A release as an image layout on disk that registries take: https://github.com/opencontainers/image-spec, a file a layer, with the media
types of the CNCF's ModelPack 0.0.7."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from onnxmake.build.files import canonical_json, place
from onnxmake.errors import StoreError
from onnxmake.release import sums
from onnxmake.release.facts import Facts

MODEL = "application/vnd.cncf.model"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"  # by which `oras pull` names files
CHANGED = "It was changed after it was made, or lost a part."
KINDS = {".onnx": "weight", ".data": "weight", ".json": "weight.config", ".md": "doc"}  # by suffix; the rest is doc


def _blob(out: Path, content: bytes) -> dict[str, Any]:
    """Store it; gives its descriptor, without a type."""
    digest = hashlib.sha256(content).hexdigest()
    (out / "blobs" / "sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _layer(file: Path, name: str, digest: str, out: Path) -> dict[str, Any]:
    kind = "doc" if name.endswith((".cdx.json", ".intoto.json")) else KINDS.get(file.suffix, "doc")
    blob = out / "blobs" / "sha256" / digest
    if not blob.exists():  # variants may have files in common
        place(file, blob, link=True)
    size = file.stat().st_size
    described = {"mediaType": f"{MODEL}.{kind}.v1.raw", "digest": f"sha256:{digest}", "size": size}
    return described | {"annotations": {PATH: name, TITLE: name}}


def lay_out(facts: Facts, folder: Path, out: Path) -> None:
    """The release in `folder` as a layout in the new folder `out`; its files are links to those of the release."""
    (out / "blobs" / "sha256").mkdir(parents=True)
    digests = sums.read(folder) | {
        n: sums.digest(folder / n) for n in (sums.FILE, sums.SIGNATURE) if (folder / n).exists()
    }
    layers = [_layer(folder / name, name, digest, out) for name, digest in sorted(digests.items())]
    config = {
        "descriptor": {"name": facts.name, "version": facts.version, "licenses": [facts.licence["license"]]},
        "config": {"architecture": facts.config.get("model_type", "unknown"), "format": "onnx"},
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": f"{MODEL}.manifest.v1+json",
        "config": {"mediaType": f"{MODEL}.config.v1+json"} | _blob(out, canonical_json(config).encode()),
        "layers": layers,
    }
    named = {"annotations": {"org.opencontainers.image.ref.name": facts.version}}
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": MANIFEST} | _blob(out, canonical_json(manifest).encode()) | named],
    }
    (out / "index.json").write_text(json.dumps(index, indent=1), "utf-8")
    (out / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', "utf-8")


class Blob(NamedTuple):
    """`digest`: sha256, in hex."""

    name: str
    digest: str
    size: int
    file: Path


class Layout(NamedTuple):
    """Of one manifest: its bytes as they are, and what it names, the config last."""

    manifest: bytes
    digest: str
    blobs: list[Blob]


def read(layout: Path, folder: Path) -> Layout:
    """The layout of the release in `folder`. Raises StoreError where it is missing, or is not of exactly these files."""
    try:
        (named,) = json.loads((layout / "index.json").read_text("utf-8"))["manifests"]
        digest = named["digest"].removeprefix("sha256:")
        content = (layout / "blobs" / "sha256" / digest).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(digest)
        told = json.loads(content)
        parts = [(part["annotations"][PATH], part) for part in told["layers"]] + [("config", told["config"])]
        stated = [(name, part["digest"].removeprefix("sha256:"), part["size"]) for name, part in parts]
        blobs = [Blob(name, sha, size, layout / "blobs" / "sha256" / sha) for name, sha, size in stated]
        files = {name: sums.digest(folder / name) for name in (sums.FILE, sums.SIGNATURE) if (folder / name).exists()}
        if {b.name: b.digest for b in blobs[:-1]} != sums.read(folder) | files:
            raise ValueError("files")
        if any(b.file.stat().st_size != b.size for b in blobs):
            raise ValueError("sizes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        fact = f"{layout.name} is no OCI image layout of {folder.name}."
        raise StoreError(fact, CHANGED, "Remove both and release it again.") from error
    return Layout(content, digest, blobs)
