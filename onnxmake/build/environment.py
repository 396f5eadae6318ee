"""Environments as virtual environments: one per lock digest under the cache, made once, whole or not at all."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from filelock import FileLock

from onnxmake.build import paths
from onnxmake.build.digest import digest_file
from onnxmake.build.files import open_log, storage_errors
from onnxmake.build.report import bar, say
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
        with contextlib.suppress(OSError):  # `doit cache gc` asks when it was used last
            os.utime(ready)
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
    """A virtual environment without pip, filled by the host's pip from the lock; its output goes to a log."""
    log = paths.BUILD / "logs" / f"environment-{name}.log"
    lock = paths.CONTAINERS / name / "requirements.lock"
    count = sum("==" in line for line in lock.read_text().splitlines())
    pip = [sys.executable, "-m", "pip", "--python", str(python_of(folder)), "--disable-pip-version-check", "--no-input"]
    only = ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    commands = [
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [*pip, "install", *only, "-r", str(lock)],
    ]
    with open_log(log) as file, bar(f"environment {name}", "packages") as draw:
        for command in commands:
            if _logged(command, file, lambda found: draw(found, count)):
                file.flush()
                tail = "\n".join(log.read_text("utf-8").splitlines()[-5:])
                raise EnvironmentMissing(
                    f"The environment {name} could not be installed:\n{tail}",
                    "No network or package index, or another platform than the lock's.",
                    f"Read {paths.shown(log)}; torch's CPU wheels come from PyTorch's own index: tell pip (README).",
                )


def _logged(command: list[str], file: TextIO, found: Callable[[int], None]) -> int:
    """Run a command with its output in the log; `found` is told how many packages pip has got. Returns the exit code."""
    packages = 0
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        for line in child.stdout:
            file.write(line)
            packages += line.startswith("Collecting ")
            found(packages)
        return child.wait()
    finally:
        child.kill()
        child.wait()
