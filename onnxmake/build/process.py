"""Processes of an environment's Python.

A clean set of variables, a process group each, and one kept ready ahead of its work.
"""

import atexit
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from onnxmake.build import environment, paths
from onnxmake.build.files import storage_errors

STEP = "onnxmake.model.step"
PASSED = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "LD_LIBRARY_PATH", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
FIXED = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LC_ALL": "C.UTF-8",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYTHONPATH": str(paths.ROOT),
    "PYTHONUNBUFFERED": "1",
    "SOURCE_DATE_EPOCH": "1767225600",
    "TQDM_DISABLE": "1",
    "TZ": "UTC",
}
NETWORK_PREFIXES = ("HF_", "SSL_CERT_")  # what a fetch takes from the caller beside PASSED
NETWORK = {"HOME", "USERPROFILE", "XDG_CACHE_HOME", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

_spare: dict[str, subprocess.Popen] = {}  # environment -> a step process that has loaded its packages and waits


def variables(env: str, network: bool) -> dict[str, str]:
    """An allow-list of the caller's variables, and fixed ones, so that results do not depend on who builds."""
    home = paths.CACHE / "home"  # empty: a step has no home of its own to read or write
    own = {"NUMBA_CACHE_DIR": str(paths.CACHE / "numba" / environment.folder_of(env).name)}
    passed = {k: v for k, v in os.environ.items() if k in PASSED}
    if network:
        passed |= {k: v for k, v in os.environ.items() if k.upper() in NETWORK or k.startswith(NETWORK_PREFIXES)}
        return passed | FIXED | own
    with storage_errors("make the steps' empty home"):
        home.mkdir(parents=True, exist_ok=True)
    return passed | FIXED | own | {"HOME": str(home), "HF_HUB_OFFLINE": "1"}


def start(arguments: Sequence[str], env: str, network: bool = False) -> subprocess.Popen:
    """The environment's Python with these arguments, its pipes open as text, in a process group of its own."""
    return subprocess.Popen(
        [str(environment.ensure(env)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=paths.ROOT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=variables(env, network),
        start_new_session=os.name != "nt",
    )


def prepare(env: str) -> None:
    """Start a step's process ahead of time, if the environment is there.

    It loads its packages while the host reads the checkpoint.
    """
    if env not in _spare and environment.is_ready(env):
        _spare[env] = start(["-m", STEP, "--ahead"], env)


def start_step(env: str) -> subprocess.Popen:
    """A process that takes one action: the prepared one, or a new one."""
    return _spare.pop(env, None) or start(["-m", STEP], env)


def end(process: subprocess.Popen) -> None:
    """Kill what is left of the process's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@atexit.register
def _end_spare() -> None:
    for process in _spare.values():
        end(process)
