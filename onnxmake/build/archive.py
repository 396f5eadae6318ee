"""Entries as one file, to be carried from machine to machine: a plain tar, objects before entries, the same bytes for the same content."""

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

from onnxmake.build import locks, paths, store
from onnxmake.build.files import canonical_json, read_record, storage_errors
from onnxmake.build.key import digest as key_digest
from onnxmake.errors import StoreError

INDEX = "index.json"  # first: without it, a file that is cut off between two members looks whole
OBJECT = re.compile(r"objects/([0-9a-f]{2})/(\1[0-9a-f]{62})")
ENTRY = re.compile(r"entries/([0-9a-f]{64})\.json")


def pack(entries: Collection[store.Entry], file: Path) -> int:
    """Write entries and their objects to `file`, whole or not at all. Returns its size in bytes. Raises StoreError."""
    shas = sorted({sha for entry in entries for sha, _ in entry.files.values()})
    with storage_errors(f"write {file.name}"):
        fresh = file.with_name(f".{file.name}.part")
        try:
            with tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as tar:
                index = canonical_json({"objects": shas, "entries": sorted(entry.key for entry in entries)}).encode()
                _add(tar, INDEX, len(index), io.BytesIO(index))
                for sha in shas:
                    path = store.located(sha)
                    with open(path, "rb") as content:
                        _add(tar, store.object_name(sha), path.stat().st_size, content)
                for entry in sorted(entries, key=lambda e: e.key):
                    text = store.entry_path(entry.layer, entry.key).read_bytes()
                    _add(tar, store.entry_name(entry.key), len(text), io.BytesIO(text))
            os.replace(fresh, file)
        finally:
            fresh.unlink(missing_ok=True)
        return file.stat().st_size


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)  # no owner, no time
    member.size = size
    tar.addfile(member, content)


def unpack(file: Path) -> int:
    """Bring a packed file's entries into the local store; returns how many. Nothing enters that is not what its name says.

    Raises StoreError for a file that is cut off, damaged, or holds anything else.
    """
    with storage_errors(f"read {file}"):
        work = Path(tempfile.mkdtemp(dir=locks.scratch(paths.CACHE)))
        try:
            with tarfile.open(file, "r:") as tar:
                index = _index(tar, file)
                left = {*map(store.object_name, index["objects"]), *map(store.entry_name, index["entries"])}
                while member := tar.next():
                    content = tar.extractfile(member) if member.isreg() else None
                    if member.name not in left or content is None:
                        raise _refused(member.name, "is neither an object nor an entry of its index")
                    left.discard(member.name)
                    _take(member.name, content, work)
        except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
            raise _refused(file.name, f"cannot be read: {error}") from error
    if left:
        raise _refused(file.name, f"is cut off: {len(left)} of its objects and entries are missing")
    return len(index["entries"])


def _index(tar: tarfile.TarFile, file: Path) -> dict[str, list[str]]:
    first = tar.next()
    if first is None or first.name != INDEX or not first.isreg():
        raise _refused(file.name, "does not begin with an index")
    return json.loads(tar.extractfile(first).read())


def _take(name: str, content: IO[bytes], work: Path) -> None:
    if match := OBJECT.fullmatch(name):
        _take_object(content, match[2], work / "object")
    elif match := ENTRY.fullmatch(name):
        _take_entry(content, match[1], work / "entry")
    else:
        raise _refused(name, "is neither an object nor an entry")


def _take_object(content: IO[bytes], sha256: str, fresh: Path) -> None:
    digest = hashlib.sha256()
    with open(fresh, "wb") as copy:
        while block := content.read(1 << 20):
            digest.update(block)
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    if digest.hexdigest() != sha256:
        raise _refused(sha256[:12], "has another content than its name says")
    store.put(fresh, sha256, store.local())


def _take_entry(content: IO[bytes], key: str, fresh: Path) -> None:
    fresh.write_bytes(content.read())
    record = read_record(fresh)
    if not store.is_entry(record, key) or key_digest(record["key"]) != key:
        raise _refused(key[:12], "is damaged")
    if not store.is_whole(record["files"]):
        raise _refused(key[:12], "comes without its objects")
    target = store.entry_path(store.local(), key)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(fresh, target)


def _refused(name: str, what: str) -> StoreError:
    return StoreError(
        f"{name} {what}.",
        "The file was damaged or cut off on its way, or is none that `doit cache pack` wrote.",
        "Pack and carry it again; nothing of it that is damaged has entered the store.",
    )
