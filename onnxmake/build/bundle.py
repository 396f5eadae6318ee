"""A built target with all that the device's machine needs to measure it: `dist/bundles/<target>`, one folder, one command."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxmake.build import closure, locks, paths, results
from onnxmake.build.device import device
from onnxmake.build.files import place, storage_errors
from onnxmake.build.report import say
from onnxmake.build.settings import setting
from onnxmake.build.target import Target
from onnxmake.errors import EnvironmentMissing

PROGRAM = "onnxmake.model.bundled"
LOCK = "requirements.lock"


def folder(target: Target) -> Path:
    return paths.DIST / "bundles" / target.name


def has(target: Target) -> bool:
    """Whether the target's device has scripts for another machine."""
    return _scripts(target).is_dir()


def _scripts(target: Target) -> Path:
    return paths.CONTAINERS / target.device / "bundle"


def settings(target: Target) -> dict[str, Any]:
    """What [bench] says, as the program takes it."""
    return asdict(target.bench)


def pack(target: Target) -> None:
    """Make the bundle of what is in dist/<target>, replacing an older one. Raises EnvironmentMissing, StoreError."""
    built = results.delivered(target)
    if not has(target):
        raise EnvironmentMissing(
            f"{target.name} needs no bundle.", f"{target.device} is on every machine.", f"doit bench:{target.name}"
        )
    described = {
        "target": target.name,
        "device": device(target.device).provider,
        "files": built["files"],
        "bench": settings(target),
    }
    with storage_errors(f"replace {paths.shown(folder(target))}"):
        work = Path(tempfile.mkdtemp(dir=locks.scratch(paths.DIST))) / "new"
        for name, file in _content(target, built["files"]):
            place(file, work / name, link=False)
        (work / "bundle.json").write_text(json.dumps(described, indent=1), "utf-8")
        folder(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder(target), ignore_errors=True)
        os.replace(work, folder(target))
    say(f"bundle:{target.name}: {paths.shown(folder(target))}; there, run the script that its README names")


def _content(target: Target, files: dict[str, list]) -> Iterator[tuple[str, Path]]:
    """Name in the bundle -> file: the model, the program with what it imports, the environment's lock and scripts."""
    for name in files:
        yield f"model/{name}", paths.DIST / target.name / name
    for name in closure.digests_of([PROGRAM]):
        yield name, paths.ROOT / name
    environment = paths.CONTAINERS / target.device
    yield LOCK, environment / _lock(environment)
    for file in (*_scripts(target).iterdir(), *environment.glob("*.ps1")):
        yield file.name, file


def _lock(environment: Path) -> str:
    """The environment's lock, or that of the flavour that a person names."""
    flavour = setting("flavour")
    name = f"{flavour}.lock" if flavour else LOCK
    if not (environment / name).is_file():
        known = ", ".join(sorted(p.stem for p in environment.glob("*.lock")))
        raise EnvironmentMissing(
            f"containers/{environment.name} has no flavour {flavour!r}.", "A typing error.", f"There are: {known}."
        )
    return name
