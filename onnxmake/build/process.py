"""Processes of an environment's Python.

A clean set of variables, a process group each, all ended with this one, and one kept ready ahead of its work.
"""

import atexit
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from onnxmake.build import closure, environment, paths
from onnxmake.build.digest import digest_file
from onnxmake.build.files import storage_errors

BOOT = paths.ROOT / "onnxmake" / "model" / "boot.py"
KERNELS = paths.ROOT / "onnxmake" / "model" / "kernels.py"
AHEAD = ("onnxmake.model.canonical", "onnxmake.model.kernels")  # what a prepared process has loaded
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
    "USER": "onnxmake",
}
NETWORK_PREFIXES = ("HF_", "SSL_CERT_")  # what a fetch takes from the caller beside PASSED
NETWORK = {"HOME", "USERPROFILE", "XDG_CACHE_HOME", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

_running: set[subprocess.Popen] = set()
_spare: dict[
    str, tuple[subprocess.Popen, dict[str, str]]
] = {}  # environment -> a process that waits, its code's digests


def kernel_cache(env: str) -> str:
    """Where compiled kernels are kept: by environment and by the kernels' source, which numba knows by its time only."""
    return str(paths.CACHE / "numba" / f"{environment.folder_of(env).name}-{digest_file(KERNELS)[:12]}")


def variables(env: str, network: bool) -> dict[str, str]:
    """An allow-list of the caller's variables, and fixed ones, so that results do not depend on who builds."""
    home = paths.CACHE / "home"  # empty: a process has no home of its own to read or write
    own = {"NUMBA_CACHE_DIR": kernel_cache(env)}
    passed = {k: v for k, v in os.environ.items() if k in PASSED}
    if network:
        passed |= {k: v for k, v in os.environ.items() if k.upper() in NETWORK or k.startswith(NETWORK_PREFIXES)}
        return passed | FIXED | own
    with storage_errors("make the steps' empty home"):
        home.mkdir(parents=True, exist_ok=True)
        os.makedirs(own["NUMBA_CACHE_DIR"], exist_ok=True)
    return passed | FIXED | own | {"HOME": str(home), "HF_HUB_OFFLINE": "1"}


def start(
    arguments: Sequence[str], env: str, network: bool = False, more: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """The environment's Python with these arguments, its pipes open as text, in a process group of its own."""
    process = subprocess.Popen(
        [str(environment.ensure(env)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=paths.ROOT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=variables(env, network) | dict(more or {}),
        start_new_session=os.name != "nt",
    )
    _running.add(process)
    return process


def _start_step(env: str, *options: str, more: Mapping[str, str] | None = None) -> subprocess.Popen:
    opened = ["--open"] if os.environ.get("ONNXMAKE_SANDBOX") == "off" else []
    return start(["-P", str(BOOT), *options, *opened], env, more={"CUDA_VISIBLE_DEVICES": ""} | dict(more or {}))


def prepare(env: str) -> None:
    """Start a step's process ahead of time, if the environment is there.

    It loads its packages while the host reads the checkpoint.
    """
    if env not in _spare and environment.is_ready(env):
        code = closure.digests_of(AHEAD)  # before it starts: what is edited from here on is noticed
        _spare[env] = (_start_step(env, *AHEAD), code)


def start_step(env: str, code: Mapping[str, str], more: Mapping[str, str]) -> subprocess.Popen:
    """A process that takes one action: the prepared one if it has loaded the code that `code` names, or a new one."""
    process, loaded = _spare.pop(env, (None, {}))
    if process and not more and process.poll() is None and all(code.get(f, d) == d for f, d in loaded.items()):
        return process
    if process:
        end(process)
    return _start_step(env, more=more)


def end(process: subprocess.Popen) -> None:
    """Kill what is left of the process's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _running.discard(process)


@atexit.register
def _end_all() -> None:
    for process in list(_running):
        end(process)
