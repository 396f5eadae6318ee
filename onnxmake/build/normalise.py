"""Equal content, equal image id: take out of a built image what tells of its time and place.

The base's layers stay as they are. In the others every entry gets one date and no user names; the configuration keeps what a
container needs of it. Works on the engine's archives, so with any builder and engine.
"""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnxmake.build.files import canonical_json
from onnxmake.build.process import EPOCH
from onnxmake.errors import EngineError

KEPT = {"Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "User", "Volumes", "WorkingDir"}
DATE = datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
OCI = "application/vnd.oci.image"
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Identity:
    """sha256 of an image's configuration (what an engine calls its id) and of its OCI manifest (what newer ones do)."""

    config: str
    manifest: str


class _Source:
    """A layer as the engine gives it, unpacked where it is packed, that knows the digest of what was read."""

    def __init__(self, archive: tarfile.TarFile, name: str):
        file, self._sha256 = archive.extractfile(name), hashlib.sha256()
        packed = file.read(2) == GZIP
        file.seek(0)
        self._file = gzip.open(file) if packed else file  # noqa: SIM115

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    def close(self) -> str:
        while self.read(1 << 20):  # what lies behind the last entry
            pass
        return self._sha256.hexdigest()


class _Layer:
    """A file that knows the digest of what is written to it."""

    def __init__(self, path: Path):
        self.path, self.size, self.digest = path, 0, ""
        self._sha256, self._file = hashlib.sha256(), open(path, "wb")  # noqa: SIM115

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        self.digest = self._sha256.hexdigest()


@contextlib.contextmanager
def _damage(tag: str) -> Iterator[None]:
    """Turn what the archive's readers say of it into EngineError."""
    try:
        yield
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, LookupError, ValueError) as error:
        raise EngineError(
            f"The archive that the engine gave of {tag} cannot be read: {error}.",
            "The engine stopped while it wrote it, or packs layers in a way that is not known here.",
            "Build again; if that does not help, remove the base image from the engine.",
        ) from error


def _clamp(source: Any, target: Any) -> None:
    """Copy a layer's entries in their order, without dates and names of users."""
    with (
        tarfile.open(fileobj=source, mode="r|") as old,
        tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as new,
    ):
        for entry in old:
            entry.mtime, entry.uname, entry.gname = EPOCH, "", ""
            entry.pax_headers = {k: v for k, v in entry.pax_headers.items() if k.startswith("SCHILY.xattr.")}
            new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)


def normalise(saved: Path, tag: str, kept: int) -> tuple[Path, Identity]:
    """Rewrite the archive of an image whose first `kept` layers are its base's; returns one to load, and what it will be.

    Raises EngineError if the archive does not hold what it says.
    """
    layers = []
    with _damage(tag), tarfile.open(saved) as archive:
        described = json.load(archive.extractfile("manifest.json"))[0]
        config = json.load(archive.extractfile(described["Config"]))
        for i, (name, said) in enumerate(zip(described["Layers"], config["rootfs"]["diff_ids"], strict=True)):
            source, layer = _Source(archive, name), _Layer(saved.with_name(f"layer-{i}"))
            if i < kept:
                shutil.copyfileobj(source, layer, 1 << 20)
            else:
                _clamp(source, layer)
            layer.close()
            if (digest := source.close()) != said[7:]:
                raise EngineError(
                    f"The engine gave layer {i} of {tag} with content {digest[:12]}, not {said[7:19]}.",
                    "Its storage is damaged.",
                    "Remove the base image from the engine and build again.",
                )
            layers.append(layer)
    saved.unlink()
    return _assemble(saved.with_name("normal.tar"), tag, _minimal(config, [layer.digest for layer in layers]), layers)


def _minimal(config: dict[str, Any], layers: list[str]) -> dict[str, Any]:
    return {
        "architecture": config["architecture"],
        "os": config["os"],
        "created": DATE,
        "config": {k: v for k, v in config["config"].items() if k in KEPT and v},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in layers]},
        "history": [{"created": DATE} for _ in layers],
    }


def _assemble(path: Path, tag: str, config: dict[str, Any], layers: list[_Layer]) -> tuple[Path, Identity]:
    """An archive that every engine loads: Docker's description and an OCI layout over the same blobs."""
    small: dict[str, bytes] = {}

    def blob(value: Any, kind: str) -> dict[str, Any]:
        data = canonical_json(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        small[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"{OCI}.{kind}.v1+json", "digest": f"sha256:{digest}", "size": len(data)}

    described = blob(config, "config")
    listed = [
        {"mediaType": f"{OCI}.layer.v1.tar", "digest": f"sha256:{layer.digest}", "size": layer.size} for layer in layers
    ]
    whole = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": described, "layers": listed}
    manifest = blob(whole, "manifest")
    names = {"io.containerd.image.name": f"docker.io/library/{tag}", "org.opencontainers.image.ref.name": tag}
    docker = {
        "Config": _place(described["digest"]),
        "RepoTags": [tag],
        "Layers": [_place(f"sha256:{layer.digest}") for layer in layers],
    }
    small["manifest.json"] = canonical_json([docker]).encode()
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [manifest | {"annotations": names}]}
    small["index.json"] = canonical_json(index).encode()
    small["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for layer in {layer.digest: layer for layer in layers}.values():  # one may come twice
            with open(layer.path, "rb") as file:
                out.addfile(_entry(_place(f"sha256:{layer.digest}"), layer.size), file)
        for name, data in small.items():
            out.addfile(_entry(name, len(data)), io.BytesIO(data))
    for layer in layers:
        layer.path.unlink()
    return path, Identity(described["digest"], manifest["digest"])


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, EPOCH
    return entry
