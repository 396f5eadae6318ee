"""The store.

Objects by the sha256 of their content, entries by the key of the step that made them. Local, then read-only layers.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from onnxmake.build import paths
from onnxmake.build.digest import canonical_json, digest_file, remember
from onnxmake.build.files import place, read_json, storage_errors, write_atomically
from onnxmake.errors import StoreError

PREBUILT = paths.TARGETS / "prebuilt"


@dataclass(frozen=True)
class Entry:
    """What a step made: file -> [sha256, size], and in which layer its objects are."""

    key: str
    files: dict[str, list]
    layer: Path
    seconds: float


def layers() -> list[Path]:
    """The local store, then the read-only ones."""
    return [paths.CACHE / "store", PREBUILT]


def object_path(layer: Path, sha256: str) -> Path:
    return layer / "objects" / sha256[:2] / sha256


def entry_path(layer: Path, key: str) -> Path:
    return layer / "entries" / f"{key}.json"


def find(key: str) -> Entry | None:
    """The first layer's entry that is whole. An object that is missing or of another size makes it a miss."""
    for layer in layers():
        path = entry_path(layer, key)
        if path.exists():
            record = read_json(path)
            entry = Entry(key, record["files"], layer, record["seconds"])
            if all(_whole(object_path(layer, sha), size) for sha, size in entry.files.values()):
                return entry
    return None


def _whole(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


@contextmanager
def locked(key: str) -> Iterator[None]:
    """One execution per key on this machine: a second build waits here, then finds the entry."""
    folder = paths.CACHE / "locks"
    with storage_errors("lock the store"):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / key):
        yield


@contextmanager
def workspace() -> Iterator[Path]:
    """A fresh folder on the store's file system, gone afterwards. Those of dead processes are swept."""
    parent = paths.CACHE / "tmp"
    with storage_errors("make a working folder"):
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.iterdir():
            owner = old.name.split("-")[0]
            if not (owner.isdigit() and _alive(int(owner))):
                shutil.rmtree(old, ignore_errors=True)
        folder = parent / f"{os.getpid()}-{time.monotonic_ns()}"
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def commit(
    key: str,
    explained: Mapping,
    folder: Path,
    seconds: float,
    known: Mapping[tuple[int, int], str],
    layer: Path | None = None,
) -> Entry:
    """Move a finished step's files into the store and record them under `key`; the record comes last.

    Raises StoreError.

    `explained` is the key's full JSON. `known` gives the digest of files by (device, inode): those handed through
    unchanged are not read.
    """
    layer = layer or layers()[0]
    files = {}
    with storage_errors("add to the store"):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            stat = path.stat()
            sha = known.get((stat.st_dev, stat.st_ino)) or digest_file(path)
            files[path.relative_to(folder).as_posix()] = [sha, stat.st_size]
            target = object_path(layer, sha)
            if not _whole(target, stat.st_size):
                target.parent.mkdir(parents=True, exist_ok=True)
                _sync(path)
                os.chmod(path, 0o444)
                os.replace(path, target)
            remember(target, sha)
    write_atomically(
        entry_path(layer, key), canonical_json({"key": explained, "files": files, "seconds": round(seconds, 3)})
    )
    return Entry(key, files, layer, seconds)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def lay_out(files: Mapping[str, list], folder: Path, link: bool) -> None:
    """Put an entry's files into `folder`: read-only links for steps, real copies for people. Raises StoreError."""
    with storage_errors(f"write {folder.name}"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (sha, size) in files.items():
            source = next((p for p in (object_path(layer, sha) for layer in layers()) if _whole(p, size)), None)
            if source is None:
                raise StoreError(
                    f"The store has lost {name}.",
                    f"{paths.CACHE / 'store'} was emptied while a build ran.",
                    "Build again.",
                )
            place(source, folder / name, link)
            if not link:
                os.chmod(folder / name, 0o644)


def copy(entry: Entry, layer: Path) -> None:
    """Copy an entry and its objects to another layer, objects first."""
    for sha, _ in entry.files.values():
        target = object_path(layer, sha)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        place(object_path(entry.layer, sha), target, link=False)
    write_atomically(entry_path(layer, entry.key), entry_path(entry.layer, entry.key).read_text("utf-8"))
