"""Files that are there whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from onnxmake.build import paths
from onnxmake.build.locks import scratch
from onnxmake.errors import StoreError

CAUSES = {
    errno.ENOSPC: ("The disk is full.", "Free space, or move ONNXMAKE_CACHE or ONNXMAKE_OUTPUT to a larger disk."),
    errno.EDQUOT: ("The quota is used up.", "Free space, or move ONNXMAKE_CACHE or ONNXMAKE_OUTPUT."),
    errno.EROFS: (
        "The file system is read-only.",
        "Set ONNXMAKE_OUTPUT and ONNXMAKE_CACHE to folders that can be written.",
    ),
    errno.EACCES: ("This user may not write there.", "Correct the rights, or set ONNXMAKE_OUTPUT and ONNXMAKE_CACHE."),
}
FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, to be copied when written
_read: dict[str, tuple] = {}  # path -> its stat signature, and the record
OPENING, MIDDLE, CLOSING = b'{"record":', ',"sha256":"', '"}'
SEAL = len(MIDDLE) + 64 + len(CLOSING)


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into StoreError; `doing` says what was tried."""
    try:
        yield
    except OSError as error:
        cause, action = CAUSES.get(error.errno, ("The operating system refused.", "See the message above."))
        place = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"Could not {doing}: {error.strerror}{place}.", cause, action) from error


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, as in RFC 8785 for the values used here."""
    return _ENCODER.encode(value)


def digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def root_of(path: Path) -> Path:
    """The folder with whose file system `path` shares renames: cache, build/, dist/, or else its own."""
    return next((r for r in (paths.CACHE, paths.BUILD, paths.DIST) if path.is_relative_to(r)), path.parent)


def open_log(path: Path) -> TextIO:
    """An empty log, written line by line: to be followed while somebody fills it. Raises StoreError."""
    with storage_errors(f"write the log {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w", buffering=1, encoding="utf-8")


def write_atomically(path: Path, text: str, durable: bool = False) -> None:
    """Write text so that a reader sees the old file or the new one; if `durable`, so does who comes after a power cut.

    Folders are made. Raises StoreError.
    """
    with storage_errors(f"write {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=scratch(root_of(path)), delete=False, encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
        if durable:
            sync(path.parent)


def write_record(path: Path, record: Any, durable: bool = False) -> None:
    """Write a record with its own digest, so that damage is noticed. Raises StoreError."""
    text = canonical_json(record)
    write_atomically(path, f"{OPENING.decode()}{text}{MIDDLE}{digest_text(text)}{CLOSING}", durable)


def read_record(path: Path) -> Any | None:
    """What `write_record` wrote; None where that is missing or damaged, in whatever way. Not to be changed: it is kept."""
    name = str(path)
    try:
        stat = os.stat(name)
        signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        known = _read.get(name)
        if known is None or known[0] != signature:
            with open(name, "rb", buffering=0) as file:
                known = _read[name] = (signature, _unsealed(file.read()))
        return known[1]
    except OSError:
        return None


def _unsealed(text: bytes) -> Any | None:
    body, seal = text[len(OPENING) : -SEAL], text[-SEAL:]
    whole = text.startswith(OPENING) and seal == f"{MIDDLE}{hashlib.sha256(body).hexdigest()}{CLOSING}".encode()
    return json.loads(body) if whole else None


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk before going on."""
    if path.is_dir() and os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def place(source: Path, destination: Path, link: bool) -> None:
    """Bring a file to a new path: as a reflink where the file system can, else a hard link where `link` allows, else a copy."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as reader, open(destination, "xb") as writer:
        if _cloned(reader.fileno(), writer.fileno()) or not link and _copied(reader.fileno(), writer.fileno()):
            return
    if link:
        destination.unlink()
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(source, destination)
            return
    shutil.copyfile(source, destination)


def _copied(source: int, destination: int) -> bool:
    """Within the kernel; several times as fast as sendfile for large files just written."""
    try:
        while os.copy_file_range(source, destination, 1 << 30):
            pass
    except (AttributeError, OSError):  # not on this system, or not between these file systems
        return False
    return os.fstat(source).st_size == os.fstat(destination).st_size


def _cloned(source: int, destination: int) -> bool:
    try:
        import fcntl

        fcntl.ioctl(destination, FICLONE, source)
    except (ImportError, OSError):
        return False
    return True
