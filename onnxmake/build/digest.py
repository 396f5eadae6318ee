"""sha256 of files, remembered by stat signature: a file is read once, however many tasks and runs ask."""

import contextlib
import functools
import hashlib
import os
import sqlite3
import time
import zlib
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.files import storage_errors
from onnxmake.errors import StoreError

REFUSED = (
    "SQLITE_FULL",
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
    "SQLITE_IOERR",
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_PERM",
)
WAIT = 60.0  # seconds for other processes
SETTLED = (
    100_000_000  # ns; file clocks tick every few ms, and a change within one tick would leave the signature as it was
)


@functools.cache
def _database() -> sqlite3.Connection:
    file = paths.CACHE / "digests.sqlite"
    with storage_errors("open the digest cache"):
        paths.CACHE.mkdir(parents=True, exist_ok=True)
    try:
        return _open(file)
    except (sqlite3.Error, ValueError) as error:
        if _is_refusal(error):
            raise StoreError(
                f"The digest cache {file} cannot be opened: {error}.",
                "The disk is full or read-only.",
                "Free space, or set ONNXMAKE_CACHE to another folder.",
            ) from error
        _forget(file)  # damaged, and it holds nothing that cannot be computed again
        return _open(file)


def _open(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, timeout=WAIT, isolation_level=None, check_same_thread=False)
    until = time.monotonic() + WAIT
    while True:  # SQLite does not wait by itself while another process turns the file into one with a log
        try:
            db.execute("pragma journal_mode=wal")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
                raise
            time.sleep(0.02)
    db.execute("pragma synchronous=off")  # a lost row costs one reading
    db.execute("create table if not exists digest (signature text primary key, sha256 text not null) without rowid")
    db.execute("select * from digest limit 1")
    return db


def _is_refusal(error: Exception) -> bool:
    """Whether the system or another process stands in the way; all else means that the file is damaged."""
    return getattr(error, "sqlite_errorname", "").startswith(REFUSED)


def _forget(file: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def _signature(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _row(signature: str, sha256: str) -> str:
    """The digest and a check of the row itself: sqlite would not notice a flipped byte."""
    return f"{sha256}:{zlib.crc32(f'{signature} {sha256}'.encode()):08x}"


@functools.cache
def _many() -> dict[str, str]:
    """Rows as they were when this process first asked: a question for each of thousands of files takes longer than all at once."""
    return dict(_database().execute("select signature, sha256 from digest limit 100000"))


def _one(signature: str) -> str | None:
    row = _database().execute("select sha256 from digest where signature = ?", (signature,)).fetchone()
    return row and row[0]


def _recall(signature: str) -> str | None:
    for _ in range(2):
        try:
            row = _many().get(signature) or _one(signature)
        except (sqlite3.Error, ValueError) as error:
            if _is_refusal(error):
                return None  # read the file instead
            _database().close()
            _database.cache_clear()
            _many.cache_clear()
            _forget(paths.CACHE / "digests.sqlite")
        else:
            sha256 = row[:64] if isinstance(row, str) else ""
            return sha256 if row == _row(signature, sha256) else None
    return None


def digest_file(path: Path | str) -> str:
    """sha256 of the file's content, in hex."""
    stat, now = os.stat(path), time.time_ns()
    signature = _signature(stat)
    found = _recall(signature)
    if found is None:
        found = read_digest(path)
        if abs(now - stat.st_ctime_ns) > SETTLED:
            _remember(signature, found)
    return found


def read_digest(path: Path | str) -> str:
    """The same from the bytes, whatever is remembered."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remember(path: Path, sha256: str) -> None:
    """Note the digest of a file whose content is known already; also after giving it a link or taking one, which sets its ctime."""
    _remember(_signature(os.stat(path)), sha256)


def _remember(signature: str, sha256: str) -> None:
    with contextlib.suppress(sqlite3.Error):  # full, locked, damaged: the digest is right, only not remembered
        _database().execute("insert or replace into digest values (?, ?)", (signature, _row(signature, sha256)))
