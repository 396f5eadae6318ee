"""A release as one file, NAME-VERSION.tar.zst, the same from the same folder whoever packs it, where and when (extra `archive`).

Its bytes are also the zstd library's, which change with its version: a release is what its SHA256SUMS says, not its archive.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.process import EPOCH
from onnxmake.build.report import say
from onnxmake.errors import EnvironmentMissing

SUFFIX, LEVEL = ".tar.zst", 3  # packed weights hardly shrink: a higher level takes its time for a percent of them


def compressor() -> Any:
    """Of one level and one thread beside the reader: without any, zstd cuts its blocks elsewhere. Raises EnvironmentMissing."""
    try:
        import zstandard
    except ModuleNotFoundError:
        raise EnvironmentMissing(
            "zstandard is not installed.", "It comes as an extra.", "pip install 'onnxmake[archive]'"
        ) from None
    return zstandard.ZstdCompressor(level=LEVEL, threads=1, write_checksum=True)


def _members(folder: Path) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    """The folder and all in it, by name, with nothing said of owner, time or rights."""
    inside = sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix())
    for path in (folder, *inside):
        member = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())  # owner 0, without names
        member.mtime = EPOCH
        member.type, member.mode = (tarfile.DIRTYPE, 0o755) if path.is_dir() else (tarfile.REGTYPE, 0o644)
        member.size = 0 if path.is_dir() else path.stat().st_size
        yield member, path


def pack(folder: Path, work: Path) -> None:
    """Write the archive beside the folder, by way of the new file `work`; a file's content is never in memory as a whole."""
    final = folder.with_name(folder.name + SUFFIX)
    with (
        open(work, "wb") as file,
        compressor().stream_writer(file) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member, path in _members(folder):
            if member.isdir():
                tar.addfile(member)
            else:
                with open(path, "rb") as content:
                    tar.addfile(member, content)
    os.replace(work, final)
    say(f"  as one file: {paths.shown(final)} ({final.stat().st_size / 1e6:,.1f} MB)")
