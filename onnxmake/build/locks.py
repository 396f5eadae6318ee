"""File locks that leave nothing behind, and this process's working folders, which the next process removes where this one could not."""

import atexit
import contextlib
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

WORKING = ".tmp"  # under each root that is written to: renaming into place needs the same file system

_making = threading.Lock()
_own: dict[Path, tuple[Path, FileLock]] = {}


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock at `path`; who comes second waits. The system drops it with the process, however that ends."""
    lock = FileLock(path)
    with lock:
        try:
            yield
        finally:
            _remove(path)


def _remove(path: Path) -> None:
    """While it is held: whoever waits for the removed file notices and makes a new one. Windows refuses, and may keep it."""
    with contextlib.suppress(OSError):
        path.unlink()


def scratch(root: Path) -> Path:
    """This process's folder on `root`'s file system, gone when the process is. Raises OSError."""
    with _making:
        if root not in _own:
            _own[root] = _make(root / WORKING)
        return _own[root][0]


def _make(parent: Path) -> tuple[Path, FileLock]:
    folder = parent / secrets.token_hex(8)
    lock = FileLock(f"{folder}.lock")
    while not lock.is_locked:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (FileNotFoundError, FileExistsError):  # another process has just tidied the parent away
            if parent.is_file():
                raise
    folder.mkdir()
    return folder, lock


@atexit.register  # at import: what is registered later, the end of running steps, comes first
def _remove_own() -> None:
    for folder, lock in _own.values():
        shutil.rmtree(folder, ignore_errors=True)
        _remove(Path(lock.lock_file))
        lock.release()
        _tidy(folder.parent)


def _tidy(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not empty: another process is at work
        folder.rmdir()


def sweep(folder: Path) -> None:
    """Remove locks that nobody holds, and the working folders beside them: what killed processes left."""
    with contextlib.suppress(OSError):  # not there, or read-only: a build says so where it needs to write
        for path in {p if p.is_file() else p.with_name(f"{p.name}.lock") for p in folder.iterdir()}:
            with contextlib.suppress(Timeout, OSError), FileLock(path, blocking=False):  # held, or another user's
                if folder.name == WORKING:
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                _remove(path)
        if folder.name == WORKING:
            _tidy(folder)
