"""A release in a folder, such as a mounted share: there whole or not at all."""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from onnxmake.build.files import place, storage_errors, sync
from onnxmake.build.report import say
from onnxmake.errors import StoreError, TargetError
from onnxmake.release import received, sums
from onnxmake.release.found import Released
from onnxmake.release.publish import Item, Seen

FORM = "dir://PATH"


def _final(release: Released, where: str) -> Path:
    if not where:
        raise TargetError("dir:// names no folder.", "", f"Write {FORM}.")
    return Path(where).expanduser() / release.folder.name


def _is_there(release: Released, final: Path) -> bool:
    """Raises StoreError where another release has the name, CheckFailed where it is damaged."""
    if not final.exists():
        return False
    own, sealed = (folder / sums.FILE for folder in (release.folder, final))
    if not sealed.is_file() or sealed.read_bytes() != own.read_bytes():
        cause = "A version is of one content for ever."
        raise StoreError(
            f"{final} is there already, and it is another one.", cause, "Release it under another version."
        )
    received.verify(final)
    return True


def look(release: Released, where: str) -> Seen:
    there = _is_there(release, _final(release, where))
    names = [*sums.listed(release.folder), *(n for n in (sums.FILE, sums.SIGNATURE) if (release.folder / n).exists())]
    files = [(name, release.folder / name) for name in names]
    return Seen([Item(name, file.stat().st_size, sums.digest(file), there) for name, file in files])


def _copied(source: Path, out: Path, known: dict[str, Path]) -> None:
    """Copy a folder; a file whose name is the digest of one that was copied is a link to that."""
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        at, twin = out / file.relative_to(source), known.get(file.name)
        place(twin or file, at, link=twin is not None)
        sync(at)
    for folder in [*(p for p in out.rglob("*") if p.is_dir()), out]:
        sync(folder)


def send(release: Released, where: str) -> None:
    """Raises StoreError, CheckFailed."""
    final = _final(release, where)
    layout = final.with_name(f"{final.name}.oci")
    with storage_errors(f"publish to {final.parent}"):
        if _is_there(release, final) and (layout.exists() or not release.layout.exists()):
            say(f"publish:{release.name}: {final} is there already, the same")
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-"))
        try:
            _copied(release.folder, work / "new", {})
            received.verify(work / "new")
            if release.layout.exists() and not layout.exists():
                digests = {sums.digest(p): p for p in (work / "new").rglob("*") if p.is_file()}
                _copied(release.layout, work / "oci", digests)
                os.replace(work / "oci", layout)
            if not final.exists():
                os.replace(work / "new", final)  # last: with it, the release is there
            sync(final.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    say(f"publish:{release.name}: {final}; python -m onnxmake verify {shlex.quote(str(final))}")
