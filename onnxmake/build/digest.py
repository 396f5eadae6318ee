"""sha256 of files, remembered by stat signature: a file is read once, however many tasks and runs ask."""
import functools
import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from onnxmake.build import paths


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, as in RFC 8785 for the values used here."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _database() -> sqlite3.Connection:
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(paths.CACHE / "digests.sqlite", timeout=60, isolation_level=None, check_same_thread=False)
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=off")  # a lost row costs one reading
    db.execute("create table if not exists digest (signature text primary key, sha256 text not null) without rowid")
    return db


def _signature(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def digest_file(path: Path) -> str:
    """sha256 of the file's content, in hex."""
    signature = _signature(os.stat(path))
    row = _database().execute("select sha256 from digest where signature = ?", (signature,)).fetchone()
    if row is None:
        with open(path, "rb") as file:
            row = (hashlib.file_digest(file, "sha256").hexdigest(),)
        remember(path, row[0], signature)
    return row[0]


def remember(path: Path, sha256: str, signature: str | None = None) -> None:
    """Note the digest of a file whose content is known already."""
    _database().execute("insert or replace into digest values (?, ?)", (signature or _signature(os.stat(path)), sha256))
