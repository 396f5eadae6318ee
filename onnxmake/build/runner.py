"""Run one action in an environment.

A process with its own log and live progress, gone when the call returns, whatever happened.
"""

import contextlib
import functools
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from onnxmake.build import environment, paths, process
from onnxmake.build.files import storage_errors
from onnxmake.build.report import bar, say
from onnxmake.errors import StepFailed

PREFIX = "@onnxmake "
KNOWN = ({"done", "total"}, {"result"}, {"error"}, {"open"})  # what a message may hold
PATIENCE = 5  # seconds to read what an ended process has left in the pipe


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
    return _serve(lambda: process.start(["-m", module], env, network), action, log, label, echo)


def run_step(
    action: Mapping[str, Any], env: str, code: Mapping[str, str], gpus: Sequence[int], log: Path, label: str
) -> Any:
    """The same for a step: cut off where the system permits, by a process that may have been prepared."""
    environment.ensure(env)
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}
    return _serve(lambda: process.start_step(env, code, visible), action, log, label)


def _serve(
    start: Callable[[], subprocess.Popen],
    action: Mapping[str, Any],
    log: Path,
    label: str,
    echo: Callable[[str], None] | None = None,
) -> Any:
    with _log(log) as file, bar(label) as draw:
        heard: dict[str, Any] = {}
        code = _talk(start(), action, file, draw, echo or (lambda line: None), heard)
    if "error" in heard:
        raise StepFailed(**heard["error"])
    if code:
        raise _crashed(label, code, log)
    if "result" not in heard:
        raise StepFailed(
            f"{label} ended without a result.", "The pass ended its process itself.", f"Read {paths.shown(log)}."
        )
    if "open" in heard:
        _say_open(heard["open"])
    return heard["result"]


@functools.cache
def _say_open(reason: str) -> None:
    """Once for a build."""
    say(f"steps are not cut off from files and network here: {reason}")


def _talk(
    worker: subprocess.Popen,
    action: Mapping,
    file: TextIO,
    draw: Callable[[int, int], None],
    echo: Callable[[str], None],
    heard: dict[str, Any],
) -> int:
    """Hand the action over and listen until the process has ended; returns its exit code.

    What it started is ended with it. A child that got away may hold the pipe open: nobody waits for that.
    """

    def listen() -> None:
        for line in worker.stdout:
            text, message = _message(line)
            if text and not file.closed:
                file.write(text)
                echo(text)
            if "total" in message:
                draw(message["done"], message["total"])
            heard.update(message)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended before it read: its exit code and log say why
            worker.stdin.write(json.dumps(action) + "\n")
            worker.stdin.flush()  # and left open: its end tells the process that the build is gone
        code = worker.wait()
    finally:
        process.end(worker)
        listener.join(PATIENCE)
    return code


def _message(line: str) -> tuple[str, dict[str, Any]]:
    """What is for the log, and what the step tells; a pass may have left its own line unfinished, or print the prefix itself."""
    text, _, told = line.partition(PREFIX)
    with contextlib.suppress(ValueError):
        message = json.loads(told)
        if isinstance(message, dict) and any(message.keys() == known for known in KNOWN):
            return text, message
    return line, {}


def call(arguments: Sequence[str], env: str, log: Path) -> None:
    """Run the environment's Python with plain arguments, output to the log. Raises StepFailed."""
    with _log(log) as file:
        worker = process.start(arguments, env)
        code = _talk(worker, {}, file, lambda done, total: None, lambda line: None, {})
    if code:
        raise _crashed(arguments[1], code, log)


def _log(path: Path) -> TextIO:
    with storage_errors(f"write the log {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w", buffering=1, encoding="utf-8")  # to be followed while the step runs


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
