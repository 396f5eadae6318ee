"""The store: objects by the sha256 of their content, entries by the key of the step that made them.

Layers: the local one, then read-only ones.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from onnxmake.build import locks, paths
from onnxmake.build.digest import digest_file, remember
from onnxmake.build.files import place, read_record, storage_errors, sync, write_record
from onnxmake.errors import ObjectLost, PassError

SHA256 = re.compile("[0-9a-f]{64}")
PREBUILT = paths.TARGETS / "prebuilt"
FIELDS = {"name", "key", "files", "seconds"}  # of an entry; "memory" may be missing


@dataclass(frozen=True)
class Entry:
    """What a step made: file -> [sha256, size], in which layer its record is, how long it took, how much memory."""

    key: str
    files: dict[str, list]
    layer: Path
    seconds: float
    memory: int | None = None  # bytes, of its process at its largest; older entries do not tell


def local() -> Path:
    return paths.CACHE / "store"


def layers() -> list[Path]:
    """The local store, those of ONNXMAKE_STORES, and the graphs that travel with the checkout."""
    return [local(), *paths.stores(), PREBUILT]


def object_name(sha256: str) -> str:
    """Where an object is in its layer, and in a packed file."""
    return f"objects/{sha256[:2]}/{sha256}"


def entry_name(key: str) -> str:
    return f"entries/{key}.json"


def object_path(layer: Path, sha256: str) -> Path:
    return layer / object_name(sha256)


def entry_path(layer: Path, key: str) -> Path:
    return layer / entry_name(key)


def find(key: str) -> Entry | None:
    """The first layer's entry that is whole. A damaged record, or a missing or damaged object, makes it a miss."""
    for layer in layers():
        record = _entry_of(layer, key)
        if record is not None and is_whole(record["files"]):
            return Entry(key, record["files"], layer, record["seconds"], record.get("memory"))
    return None


def _entry_of(layer: Path, key: str) -> dict | None:
    record = read_record(entry_path(layer, key))
    return record if is_entry(record, key) else None


def is_entry(record: Any, key: str) -> bool:
    """Whether a record that was read has an entry's shape, is this key's, and its files' names lead nowhere else."""
    if not isinstance(record, dict) or record.keys() - {"memory"} != FIELDS or record["name"] != key:
        return False
    try:
        return isinstance(record["key"], dict) and all(
            SHA256.fullmatch(sha)
            and isinstance(size, int)
            and ".." not in (parts := PurePosixPath(name).parts)
            and parts[0] != "/"
            for name, (sha, size) in record["files"].items()
        )
    except (AttributeError, IndexError, TypeError, ValueError):
        return False


def document(key: str) -> dict | None:
    """The key's full JSON, from the first layer that has an entry for it."""
    records = (_entry_of(layer, key) for layer in layers())
    return next((record["key"] for record in records if record is not None), None)


def is_whole(files: Mapping[str, list]) -> bool:
    """Whether every file's object is in some layer, with the content that its name says."""
    where = [str(layer) for layer in layers()]
    return all(_located(sha, where) for sha, _ in files.values())


def located(sha256: str) -> Path | None:
    """Where the object is, whole, in the first layer that has it."""
    found = _located(sha256, [str(layer) for layer in layers()])
    return Path(found) if found else None


def _located(sha256: str, where: Iterable[str]) -> str | None:
    """In texts: a build that has nothing to do asks this of every file of every step."""
    return next((path for layer in where if holds(path := f"{layer}/{object_name(sha256)}", sha256)), None)


def holds(path: str, sha256: str) -> bool:
    """Whether the file is there with this content; it is read once for its stat signature."""
    try:
        return digest_file(path) == sha256
    except OSError:
        return False


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One execution per key on this machine: a second build waits here, then finds the entry."""
    folder = paths.CACHE / "locks"
    with contextlib.ExitStack() as stack:
        with storage_errors("lock the store"):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.held(folder / name))
        yield


def touch(entry: Entry) -> None:
    """Note in the local store that an entry was used: what was not used for longest is forgotten first."""
    if entry.layer == local():
        with contextlib.suppress(OSError):  # forgotten meanwhile
            os.utime(entry_path(entry.layer, entry.key))


def commit(
    key: str,
    explained: Mapping,
    folder: Path,
    seconds: float,
    kept: Mapping[str, list],
    layer: Path | None = None,
    memory: int | None = None,
) -> Entry:
    """Move a finished step's files into the store and record them under `key`, whose document `explained` is.

    `kept`: inputs that are results as they are, name -> [sha256, size]. Content reaches the disk first, then the names,
    the record last. Raises StoreError, PassError for anything that is no plain file.
    """
    layer = layer or local()
    files = dict(kept)
    with storage_errors("add to the store"):
        found = {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not _is_folder(path)
        }
        for name, path in found.items():
            files[name] = [digest_file(path), path.stat().st_size]
            sync(path)
        for name, path in found.items():
            put(path, files[name][0], layer)
        for parent in {object_path(layer, files[name][0]).parent for name in found}:
            sync(parent)
    return enter(key, explained, files, seconds, layer, memory)


def enter(
    key: str, explained: Mapping, files: dict[str, list], seconds: float, layer: Path, memory: int | None = None
) -> Entry:
    """Record what a key's step made; its objects are there."""
    record = {"name": key, "key": explained, "files": files, "seconds": round(seconds, 3)}
    record |= {} if memory is None else {"memory": memory}
    write_record(entry_path(layer, key), record, durable=True)
    return Entry(key, files, layer, seconds, memory)


def _is_folder(path: Path) -> bool:
    plain = not path.is_symlink() and (path.is_dir() or path.is_file())
    name = path.name.encode(errors="replace").decode()
    if not plain or name != path.name:
        raise PassError(
            f"The step left {name}, which is no plain file.",
            "A pass may write files and folders with names in UTF-8, no links or devices.",
            "Copy what a link points to.",
        )
    return path.is_dir()


def put(path: Path, sha256: str, layer: Path) -> None:
    """Move a file to its place as an object, over a damaged one too. Raises OSError."""
    target = object_path(layer, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.chmod(path, 0o444)
    os.replace(path, target)
    remember(target, sha256)


def lay_out(files: Mapping[str, list], folder: Path, link: bool) -> None:
    """Put an entry's files into `folder`: read-only and perhaps linked for steps, real ones for people.

    Raises ObjectLost, StoreError.
    """
    with storage_errors(f"write {folder.name}"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (sha, _) in files.items():
            path, source = folder / name, located(sha)
            if source is None:
                raise ObjectLost(f"The store has lost {name}.", "Something removed or changed it.", "Build again.")
            place(source, path, link and source.is_relative_to(local()))
            wanted = 0o444 if link else 0o644
            if path.stat().st_mode & 0o777 != wanted:
                os.chmod(path, wanted)
            remember(path, sha)


@contextlib.contextmanager
def unlinking(files: Mapping[Path, str]) -> Iterator[None]:
    """Around the removal of laid-out files (path -> sha256): their objects are still known afterwards, if they were as they should be."""
    known = {sha for path, sha in files.items() if holds(str(path), sha)}
    yield
    for sha in known:
        with contextlib.suppress(OSError):  # forgotten meanwhile
            remember(object_path(local(), sha), sha)


def copy(entry: Entry, layer: Path) -> None:
    """Copy an entry and its objects to another layer, objects first."""
    with storage_errors("copy into the store"):
        for sha, _ in entry.files.values():
            source, target = located(sha), object_path(layer, sha)
            if source != target:
                target.unlink(missing_ok=True)
                place(source, target, link=False)
                os.chmod(target, 0o444)
    write_record(entry_path(layer, entry.key), read_record(entry_path(entry.layer, entry.key)))
