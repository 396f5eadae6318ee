"""Environments as virtual environments: one per lock digest under the cache, made once, whole or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from onnxmake.build import paths
from onnxmake.build.digest import digest_file
from onnxmake.build.files import storage_errors
from onnxmake.build.report import say
from onnxmake.errors import EnvironmentMissing


def folder_of(name: str) -> Path:
    lock = paths.CONTAINERS / name / "requirements.lock"
    if not lock.is_file():
        known = ", ".join(sorted(p.parent.name for p in paths.CONTAINERS.glob("*/requirements.lock")))
        raise EnvironmentMissing(
            f"There is no environment {name!r}.",
            f"containers/{name}/requirements.lock does not exist.",
            f"Use one of: {known}.",
        )
    return paths.CACHE / "envs" / f"{name}-{digest_file(lock)[:12]}-py{sys.version_info.major}.{sys.version_info.minor}"


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_ready(name: str) -> bool:
    return (folder_of(name) / "ready").exists()


def ensure(name: str) -> Path:
    """The environment's Python, made first where it is not there yet. Raises EnvironmentMissing."""
    folder = folder_of(name)
    ready = folder / "ready"
    if ready.exists():
        return python_of(folder)
    with storage_errors("make an environment"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not ready.exists():
            say(
                f"environment {name}: installing {paths.shown(paths.CONTAINERS / name / 'requirements.lock')} (once) ..."
            )
            shutil.rmtree(folder, ignore_errors=True)
            _install(name, folder)
            ready.touch()
    return python_of(folder)


def _install(name: str, folder: Path) -> None:
    log = paths.BUILD / "logs" / f"environment-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    lock = paths.CONTAINERS / name / "requirements.lock"
    commands = [
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python_of(folder)),
            "install",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "-r",
            str(lock),
        ],
    ]
    with open(log, "w") as file:
        for command in commands:
            if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode:
                file.flush()
                tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-5:])
                raise EnvironmentMissing(
                    f"The environment {name} could not be installed:\n{tail.rstrip()}",
                    "No network or package index, or another platform than the lock's.",
                    f"Read {paths.shown(log)}; torch's CPU wheels come from PyTorch's own index, which pip must know (README).",
                )
