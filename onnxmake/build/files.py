"""Files that are there whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into StoreError; `doing` says what was tried."""
    try:
        yield
    except OSError as error:
        cause, action = CAUSES.get(error.errno, ("The operating system refused.", "See the message above."))
        place = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"Could not {doing}: {error.strerror}{place}.", cause, action) from error


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def write_atomically(path: Path, text: str) -> None:
    """Write text so that a reader, or a crash, sees the old file or the new one.

    Folders are made. Raises StoreError.
    """
    with storage_errors(f"write {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".tmp-", delete=False, encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(file.name)
                raise
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)


def place(source: Path, destination: Path, link: bool) -> None:
    """Bring a file to a new path.

    A hard link where `link` allows and the file system can, else a copy (a reflink where Python and the disk can).
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with contextlib.suppress(OSError):
            os.link(source, destination)
            return
    with open(source, "rb") as reader, open(destination, "wb") as writer:
        if hasattr(os, "copy_file_range"):
            with contextlib.suppress(OSError):
                while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                    pass
        if writer.seek(0, os.SEEK_END) < os.fstat(reader.fileno()).st_size:
            reader.seek(writer.tell())
            shutil.copyfileobj(reader, writer, 1 << 22)
