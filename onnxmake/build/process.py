"""The venv runner: jobs as processes of an environment's Python.

A clean set of variables, a process group each, all ended with this one, and one kept ready ahead of its work.
"""

import atexit
import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Mapping

from onnxmake.build import closure, environment, job, paths
from onnxmake.build.digest import digest_file
from onnxmake.build.files import digest_text, storage_errors
from onnxmake.build.job import Job

AHEAD = ("onnxmake.model.canonical", "onnxmake.model.kernels")  # what a prepared process has loaded
PASSED = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "LD_LIBRARY_PATH")  # of the caller's variables, those of his machine
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
EPOCH = 1767225600  # seconds: the one date that anything made here bears
FIXED = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LC_ALL": "C.UTF-8",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take a busy machine from those that work
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYTHONPATH": str(paths.ROOT),
    "PYTHONUNBUFFERED": "1",
    "SOURCE_DATE_EPOCH": str(EPOCH),
    "TQDM_DISABLE": "1",
    "TZ": "UTC",
    "USER": "onnxmake",
}
NETWORK_PREFIXES = ("HF_", "SSL_CERT_")  # what a fetch takes from the caller beside PASSED
NETWORK = {"HOME", "USERPROFILE", "XDG_CACHE_HOME", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}


class Worker(subprocess.Popen):
    """A process with its pipes open as text."""

    def end(self) -> None:
        """Kill what is left of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "nt":
                self.kill()
            else:
                os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        _running.discard(self)


_running: set[Worker] = set()
_spare: dict[str, tuple[Worker, Mapping[str, str]]] = {}  # environment -> a process that waits, its code's digests


def kernel_cache(env: str) -> str:
    """Where compiled kernels are kept: by environment and by the kernels' source, which numba knows by its time only."""
    return str(paths.CACHE / "numba" / f"{environment.folder_of(env).name}-{_kernels()[:12]}")


@functools.cache
def _kernels() -> str:
    """Digest of all that numba compiles."""
    files = sorted((paths.ROOT / "onnxmake" / "model").rglob("*.py"))
    return digest_text("".join(digest_file(file) for file in files if "import njit" in file.read_text("utf-8")))


def variables(env: str, network: bool) -> dict[str, str]:
    """What a job has of the caller's variables, an allow-list, and fixed ones: results do not depend on who builds."""
    own = {"NUMBA_CACHE_DIR": kernel_cache(env)}
    with storage_errors("make the folder of compiled kernels"):
        os.makedirs(own["NUMBA_CACHE_DIR"], exist_ok=True)
    passed = {k: v for k, v in os.environ.items() if k in THREADS}
    if network:
        passed |= {k: v for k, v in os.environ.items() if k.upper() in NETWORK or k.startswith(NETWORK_PREFIXES)}
        return {"HF_HUB_OFFLINE": "0"} | passed | FIXED | own  # an image's own word is 1
    return passed | FIXED | own | {"HF_HUB_OFFLINE": "1"}


def _home() -> str:
    """Empty: a process has no home of its own to read or write."""
    home = paths.CACHE / "home"
    with storage_errors("make the steps' empty home"):
        home.mkdir(parents=True, exist_ok=True)
    return str(home)


def start(job: Job) -> Worker:
    """A process for the job: the prepared one if it has loaded the code that the job names, or a new one."""
    if not job.code:
        return _start(job)
    spare, loaded = _spare.pop(job.environment, (None, {}))
    if spare and not job.gpus and spare.poll() is None and all(job.code.get(f, d) == d for f, d in loaded.items()):
        return spare
    if spare:
        spare.end()
    return _start(job)


def _start(job: Job, *ahead: str) -> Worker:
    seen = {k: v for k, v in os.environ.items() if k in PASSED} | variables(job.environment, job.network)
    if not job.network:
        seen["HOME"] = _home()
    if job.code or job.gpus:
        seen["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, job.gpus))
    cut = "open" if os.environ.get("ONNXMAKE_SANDBOX") == "off" else "namespaces"
    worker = Worker(
        [str(environment.ensure(job.environment)), *job.arguments, *([cut] if job.code else []), *ahead],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=paths.ROOT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=seen,
        start_new_session=os.name != "nt",
    )
    _running.add(worker)
    return worker


def make_ready(env: str) -> None:
    """Raises EnvironmentMissing."""
    environment.ensure(env)


def prepare(env: str) -> None:
    """Start a step's process ahead of time, if the environment is there.

    It loads its packages while the host reads the checkpoint.
    """
    if env not in _spare and environment.is_ready(env):
        code = closure.digests_of(AHEAD)  # before it starts: what is edited from here on is noticed
        _spare[env] = (_start(job.step(env, code), *AHEAD), code)


@atexit.register
def _end_all() -> None:
    for worker in list(_running):
        worker.end()
