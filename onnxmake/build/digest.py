"""sha256 of files, remembered by stat signature: a file is read once, however many tasks and runs ask."""

import contextlib
import functools
import hashlib
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.files import storage_errors
from onnxmake.errors import StoreError

SETTLED = (
    100_000_000  # ns; file clocks tick every few ms, and a change within one tick would leave the signature as it was
)


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, as in RFC 8785 for the values used here."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _database() -> sqlite3.Connection:
    with storage_errors("open the digest cache"):
        paths.CACHE.mkdir(parents=True, exist_ok=True)
    try:
        db = sqlite3.connect(paths.CACHE / "digests.sqlite", timeout=60, isolation_level=None, check_same_thread=False)
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=off")  # a lost row costs one reading
        db.execute("create table if not exists digest (signature text primary key, sha256 text not null) without rowid")
    except sqlite3.Error as error:
        raise StoreError(
            f"The digest cache {paths.CACHE / 'digests.sqlite'} cannot be opened: {error}.",
            "The disk is full or read-only, or the file is damaged.",
            "Free space, set ONNXMAKE_CACHE to another folder, or delete that file: it holds nothing that cannot be computed again.",
        ) from error
    return db


def _signature(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def digest_file(path: Path) -> str:
    """sha256 of the file's content, in hex."""
    stat, now = os.stat(path), time.time_ns()
    signature = _signature(stat)
    row = _database().execute("select sha256 from digest where signature = ?", (signature,)).fetchone()
    if row is None:
        with open(path, "rb") as file:
            row = (hashlib.file_digest(file, "sha256").hexdigest(),)
        if now - stat.st_ctime_ns > SETTLED:
            remember(path, row[0], signature)
    return row[0]


def remember(path: Path, sha256: str, signature: str | None = None) -> None:
    """Note the digest of a file whose content is known already."""
    with contextlib.suppress(sqlite3.OperationalError):  # a full disk: the digest is right, only not remembered
        _database().execute(
            "insert or replace into digest values (?, ?)", (signature or _signature(os.stat(path)), sha256)
        )
