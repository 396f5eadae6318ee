"""A second place to build a target in: the checkout copied, no store, and whatever else a result must not depend on changed."""

import contextlib
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from onnxmake.build import engine, environment, fetch, history, locks, paths, runner
from onnxmake.build.files import open_log, storage_errors
from onnxmake.build.plan import Step
from onnxmake.build.process import THREADS
from onnxmake.build.report import say
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed

COPIED = ("onnxmake", "passes", "containers", "targets", "docs", "dodo.py", "pyproject.toml")
LEFT_OUT = (
    "__pycache__",
    ".*",
    "prebuilt",
    "model*.safetensors",
)  # graphs are exported anew, checkpoints read where they are
SHARED = ("envs", "images")  # of the cache: they are locked
VARIABLES = {  # and what each is if it is the first already
    "LANG": ("tr_TR.UTF-8", "C"),
    "LC_ALL": ("tr_TR.UTF-8", "C"),
    "TZ": ("Pacific/Chatham", "UTC"),
    "PYTHONHASHSEED": ("4242", "1"),
    **dict.fromkeys(THREADS, ("1", "2")),
}
FOLDERS = {"HOME": "home", "TMPDIR": "tmp", "ONNXMAKE_OUTPUT": "output", "ONNXMAKE_CACHE": "cache"}
ELSEWHERE = ("ONNXMAKE_STORES", "PYTHONSAFEPATH")  # would bring in results, or the first checkout's code
UMASK = 0o077


def varied() -> dict[str, str]:
    """What the second build has otherwise, for people: no path of this machine."""
    settings = {name: next(v for v in both if v != os.environ.get(name)) for name, both in VARIABLES.items()}
    others = {"umask": f"{UMASK:03o}", "checkout": "copied, files in reverse order", "store": "empty"}
    return settings | dict.fromkeys(FOLDERS, "another folder") | others


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder with the checkout and what FOLDERS names, gone afterwards. Raises StoreError."""
    with storage_errors("make a second place to build in"):
        work = Path(tempfile.mkdtemp(dir=locks.scratch(paths.BUILD)))
    try:
        with storage_errors("copy the checkout"):
            _copy(work / "checkout")
            for name in FOLDERS.values():
                (work / name).mkdir()
            for name in SHARED:
                (paths.CACHE / name).mkdir(parents=True, exist_ok=True)
                (work / "cache" / name).symlink_to(paths.CACHE / name)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _copy(root: Path) -> None:
    """Last names first: some file systems list a folder in the order in which it was filled."""
    found = [f for name in COPIED for f in ((paths.ROOT / name), *(paths.ROOT / name).rglob("*")) if f.is_file()]
    for file in sorted(found, reverse=True):
        inside = file.relative_to(paths.ROOT)
        if not any(fnmatch(part, pattern) for part in inside.parts for pattern in LEFT_OUT):
            (root / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / inside)


def runner_for(steps: Sequence[Step]) -> str:
    """The runner that the first build did not have, where it is ready for every step; else the one it had."""
    environments = sorted({step.use.declaration.environment for step in steps})
    if {step.record.get("runner") for step in steps} - {"store", None} == {"docker"}:  # what was restored ran elsewhere
        return "venv" if all(map(environment.is_ready, environments)) else "docker"
    return "docker" if all(runner.available(env) == "docker" for env in environments) else "venv"


def _around(work: Path, chosen: str) -> dict[str, str]:
    """Variables of the second doit."""
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    named = {name: value for name, value in varied().items() if name in VARIABLES}
    folders = {name: str(work / folder) for name, folder in FOLDERS.items()}
    also = {
        "ONNXMAKE_RUNNER": chosen,
        "ONNXMAKE_TARGETS": os.pathsep.join(map(str, paths.target_folders()[1:])),
        "PYTHONUSERBASE": site.getuserbase(),  # doit may be installed there, which HOME would move
        "HF_HOME": str(fetch.hub_home()),  # what was fetched is read where it is
    }
    return kept | named | folders | also | ({"DOCKER_HOST": engine.address()} if engine.address() else {})


def build(target: Target, steps: Sequence[Step], work: Path) -> list[dict]:
    """Build the target in a place, from the checkpoint that the first build read; the records of its steps. Raises CheckFailed."""
    log = paths.BUILD / "logs" / f"verify-{target.name}.log"
    checkpoint = steps[0].checkpoint.record["folder"]
    with open_log(log) as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "doit", f"source={checkpoint}", f"build:{target.name}"],
            cwd=work / "checkout",
            env=_around(work, runner_for(steps)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            umask=UMASK,
        )
        try:
            for line in child.stdout:
                file.write(line)
                if line.startswith("  "):  # what its steps say
                    say(line.rstrip())
            code = child.wait()
        finally:
            child.terminate()  # its own way out ends its steps
            child.wait()
    if code:
        tail = "\n".join(f"    {line}" for line in log.read_text("utf-8").splitlines()[-15:])
        raise CheckFailed(
            f"The second build of {target.name} failed; the last lines of its log:\n{tail}",
            "It needs something around the first: a variable, or a file that is neither in the checkout nor the checkpoint's.",
            f"Read {paths.shown(log)}.",
        )
    return [record for _, record in history.chain(target.name, work / "output" / "build")]
