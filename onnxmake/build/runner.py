"""Run one action in an environment.

A process with its own log and live progress, gone when the call returns, whatever happened.
"""

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from onnxmake.build import environment, paths, process
from onnxmake.build.files import storage_errors
from onnxmake.build.report import bar
from onnxmake.errors import StepFailed

PREFIX = "@onnxmake "


def run(
    module: str,
    action: Mapping[str, Any],
    env: str,
    log: Path,
    label: str,
    network: bool = False,
    echo: Callable[[str], None] | None = None,
) -> Any:
    """Run `python -m module` in environment `env` with `action` as JSON on its standard input; returns its result.

    Lines with PREFIX are messages (progress, result, error); others go to the log and to `echo`. Raises the step's own
    error, or StepFailed.
    """
    environment.ensure(env)
    with _log(log) as file, bar(label) as draw:
        worker = process.start_step(env) if module == process.STEP else process.start(["-m", module], env, network)
        try:
            result, failure = _talk(worker, action, file, draw, echo or (lambda line: None))
            code = worker.wait()
        finally:
            process.end(worker)
    if failure:
        raise StepFailed(**failure)
    if code:
        raise _crashed(label, code, log)
    return result


def _talk(
    worker: subprocess.Popen,
    action: Mapping,
    file: TextIO,
    draw: Callable[[int, int], None],
    echo: Callable[[str], None],
) -> tuple[Any, dict | None]:
    """Hand the action over and read to the end; returns result and error, as the step reported them."""
    result, failure = None, None
    with contextlib.suppress(BrokenPipeError):  # it ended before it read: its exit code and log say why
        worker.stdin.write(json.dumps(action))
        worker.stdin.close()
    for line in worker.stdout:
        message = json.loads(line.removeprefix(PREFIX)) if line.startswith(PREFIX) else None
        if message is None:
            file.write(line)
            echo(line)
        elif "total" in message:
            draw(message["done"], message["total"])
        elif "error" in message:
            failure = message["error"]
        else:
            result = message["result"]
    return result, failure


def call(arguments: Sequence[str], env: str, log: Path) -> None:
    """Run the environment's Python with plain arguments, output to the log. Raises StepFailed."""
    with _log(log) as file:
        worker = process.start(arguments, env)
        try:
            _talk(worker, {}, file, lambda done, total: None, lambda line: None)
            code = worker.wait()
        finally:
            process.end(worker)
    if code:
        raise _crashed(arguments[1], code, log)


def _log(path: Path) -> TextIO:
    with storage_errors(f"write the log {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w", encoding="utf-8")


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
