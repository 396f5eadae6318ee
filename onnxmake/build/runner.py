"""Run one action in an environment: a subprocess in its own process group, with its own log, a clean environment and live progress."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import environment, paths
from onnxmake.build.report import bar
from onnxmake.errors import StepFailed

PREFIX = "@onnxmake "
PASSED = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "LD_LIBRARY_PATH", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
NETWORK = (
    "HOME",
    "USERPROFILE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_XET",
    "XDG_CACHE_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
)


def _environment(name: str, home: Path, network: bool) -> dict[str, str]:
    """Variables of the step: an allow-list of the caller's, and fixed ones, so that results do not depend on who builds."""
    fixed = {
        "PYTHONPATH": str(paths.ROOT),
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": "1767225600",
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "NUMBA_CACHE_DIR": str(paths.CACHE / "numba" / environment.folder_of(name).name),
    }
    offline = {} if network else {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return {k: os.environ[k] for k in (*PASSED, *(NETWORK if network else ())) if k in os.environ} | fixed | offline


def run(
    module: str,
    action: Mapping[str, Any],
    env: str,
    work: Path,
    log: Path,
    label: str,
    network: bool = False,
    echo: Callable[[str], None] | None = None,
) -> Any:
    """Run `python -m module` in environment `env` with `action` as JSON on its standard input; returns what it reports as its result.

    Lines with PREFIX are messages (progress, result, error); others go to the log and to `echo`. Raises the step's own error, or StepFailed.
    The process group is gone when this returns, whatever happened.
    """
    python = environment.ensure(env)
    log.parent.mkdir(parents=True, exist_ok=True)
    result, failure = None, None
    with open(log, "w", encoding="utf-8") as file, bar(label) as draw:
        process = subprocess.Popen(
            [str(python), "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=work,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(env, work, network),
            start_new_session=os.name != "nt",
        )
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(action))
                process.stdin.close()
            for line in process.stdout:
                message = json.loads(line.removeprefix(PREFIX)) if line.startswith(PREFIX) else None
                if message is None:
                    file.write(line)
                    if echo:
                        echo(line)
                elif "total" in message:
                    draw(message["done"], message["total"])
                elif "error" in message:
                    failure = message["error"]
                else:
                    result = message["result"]
            code = process.wait()
        finally:
            _end(process)
    if failure:
        raise StepFailed(**failure)
    if code:
        raise _crashed(label, code, log)
    return result


def call(arguments: Sequence[str], env: str, log: Path) -> None:
    """Run the environment's Python with plain arguments, output to the log. Raises StepFailed."""
    python = environment.ensure(env)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        code = subprocess.run(
            [str(python), *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(env, log.parent, False),
        ).returncode
    if code:
        raise _crashed(arguments[1], code, log)


def _end(process: subprocess.Popen) -> None:
    """Kill what is left of the step's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _crashed(label: str, code: int, log: Path) -> StepFailed:
    tail = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
    if code == -signal.SIGKILL:
        return StepFailed(
            f"{label} was killed.",
            "The system ran out of memory, or somebody ended it.",
            f"Free memory and build again: finished steps are kept. Log: {paths.shown(log)}",
        )
    ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return StepFailed(
        f"{label} {ended}; the last lines of its log:\n{tail}",
        "A bug in the pass, or an input it does not expect.",
        f"Read {paths.shown(log)}.",
    )
