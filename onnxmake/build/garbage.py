"""What the store may forget, and what in it is damaged.

Kept for good are roots: pins, and what the last builds of every output folder on this machine made. The rest goes when it has
not been used for a while, or, under a size budget, as far as the budget wants it, what was used last at the end.
"""

import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmake.build import environment, image, paths, process, store
from onnxmake.build.digest import read_digest
from onnxmake.build.files import digest_text, read_record, storage_errors, write_record

COMMITTING = 600  # s; a commit brings objects first, its entry after: an object this young may belong to one


@functools.cache
def register(output: Path) -> None:
    """Let the store know an output folder, so that what its builds made is kept."""
    path = store.local() / "outputs" / f"{digest_text(str(output))[:16]}.json"
    if not path.exists():
        write_record(path, {"path": str(output)})


def pin(name: str, keys: Collection[str]) -> None:
    """Keep these entries whatever becomes of the output folder."""
    write_record(store.local() / "pins" / f"{name}.json", {"keys": sorted(keys)})


def unpin(name: str) -> bool:
    """Returns whether there was such a pin."""
    path = store.local() / "pins" / f"{name}.json"
    known = path.exists()
    path.unlink(missing_ok=True)
    return known


def entries() -> dict[str, tuple[Path, Any]]:
    """Key -> path and record of every entry of the local store; the record is None where it is damaged."""
    return {p.stem: (p, read_record(p)) for p in sorted((store.local() / "entries").glob("*.json"))}


def objects() -> Iterator[Path]:
    yield from sorted(p for p in (store.local() / "objects").glob("*/*") if p.is_file())


def roots(current: Collection[str], grace: float) -> tuple[set[str], set[str]]:
    """Keys of pins and of every known output folder's step manifests; and the objects that these manifests name.

    In this output folder, manifests of steps that no target has any more (`current`: ids of those that some has) count only
    for the grace period.
    """
    keys: set[str] = set()
    named: set[str] = set()
    for pinned in (store.local() / "pins").glob("*.json"):
        keys.update((read_record(pinned) or {"keys": ()})["keys"])
    for known in (store.local() / "outputs").glob("*.json"):
        folder = Path((read_record(known) or {"path": ""})["path"])
        for manifest in (folder / "build" / "steps").glob("*.json"):
            record = read_record(manifest)
            if record and (folder != paths.OUTPUT or manifest.stem in current or not _is_old(manifest, grace)):
                keys.add(record["key"])
                named |= _objects_of(record)
    return keys, named


def _is_old(path: Path, grace: float) -> bool:
    """A time in the future, by a clock that was set back, is not old."""
    return time.time() - path.stat().st_mtime > grace


@dataclass
class Garbage:
    """What to remove, and how much that frees."""

    entries: list[Path] = field(default_factory=list)
    objects: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # environments and compiled kernels of other versions
    images: list[Path] = field(default_factory=list)  # records of images
    size: int = 0
    left: int = 0  # bytes of objects that stay


def find(current: Collection[str], grace: float, budget: int | None) -> Garbage:
    """What can go: entries that are no roots and unused for `grace` seconds, oldest first, all or down to `budget` bytes."""
    found, kept = Garbage(), entries()
    held, named = roots(current, grace)
    sizes = {path.name: path.stat().st_size for path in objects()}
    uses = Counter(sha for _, record in kept.values() for sha in _objects_of(record)) + Counter(named)
    found.left = sum(sizes.values())
    for sha in set(sizes) - set(uses):
        path = store.object_path(store.local(), sha)
        if _is_old(path, max(grace, COMMITTING)) and time.time() - path.stat().st_ctime > COMMITTING:
            found.objects.append(path)
            found.left -= sizes[sha]
    for key, (path, record) in sorted(kept.items(), key=lambda item: item[1][0].stat().st_mtime):
        if record is not None and (key in held or not _is_old(path, grace)):
            continue
        if record is not None and budget is not None and found.left <= budget:
            break
        found.entries.append(path)
        for sha in _objects_of(record):
            uses[sha] -= 1
            if not uses[sha] and sha in sizes:
                found.objects.append(store.object_path(store.local(), sha))
                found.left -= sizes[sha]
    found.folders = list(_other_versions(grace))
    found.images = [path for path in image.recorded("*") if _is_old(path, grace)]
    found.size = sum(sizes.values()) - found.left
    return found


def _objects_of(record: Any) -> set[str]:
    return {sha for sha, _ in (record or {}).get("files", {}).values()}


def _other_versions(grace: float) -> Iterator[Path]:
    names = [p.parent.name for p in paths.CONTAINERS.glob("*/requirements.lock")]
    current = {environment.folder_of(n).name for n in names} | {Path(process.kernel_cache(n)).name for n in names}
    for parent, mark in (("envs", "ready"), ("numba", "")):
        for folder in (paths.CACHE / parent).glob("*/"):
            used = folder / mark if (folder / mark).exists() else folder
            if folder.name not in current and _is_old(used, grace):
                yield folder
    for folder in (paths.CACHE / "states").glob("*/"):  # of runs that were stopped, and that nobody went on with
        if _is_old(folder, grace):
            yield folder


def remove(found: Garbage) -> None:
    """Entries first: one without its objects is only a miss, objects without an entry would be forgotten."""
    with storage_errors("remove from the store"):
        for path in (*found.entries, *found.objects):
            path.unlink(missing_ok=True)
        for folder in found.folders:
            (folder / "ready").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            Path(f"{folder}.lock").unlink(missing_ok=True)
    for path in found.images:
        image.forget(path)


def verify(draw: Callable[[int, int], None]) -> list[str]:
    """Read every object of the local store again, whatever is remembered of it; drops what is damaged, and says what that was."""
    damaged, done = [], 0
    found = list(objects())
    total = sum(path.stat().st_size for path in found)
    for path in found:
        size = path.stat().st_size
        if read_digest(path) != path.name:
            damaged.append(f"object {path.name[:12]}: its content is another")
            path.unlink()
        done += size
        draw(done, total)
    for key, (path, record) in entries().items():
        files = (record or {}).get("files", {})
        lacking = [name for name, (sha, _) in files.items() if store.located(sha) is None]
        if record is None or lacking:
            what = f"lacks {', '.join(lacking)}" if lacking else "cannot be read"
            damaged.append(f"entry {key[:12]}: {what}")
            path.unlink()
    return damaged
