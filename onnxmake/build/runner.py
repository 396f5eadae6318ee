"""Run one job in its environment: as a process of the host, or in a container.

With its own log and live progress, gone when the call returns, whatever happened.
"""

import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import container, engine, image, paths, process
from onnxmake.build.files import open_log
from onnxmake.build.job import Job
from onnxmake.build.once import once
from onnxmake.build.report import bar, say
from onnxmake.build.settings import choice
from onnxmake.build.talk import talk
from onnxmake.errors import EngineError, Refused, StepFailed

RUNNERS = {"venv": process, "docker": container}


def chosen(env: str) -> str:
    """venv or docker, as runner=... says; auto is docker where an engine answers and has the environment's image."""
    asked = choice("runner", ("auto", *RUNNERS))
    return available(env) if asked == "auto" else asked


@once  # threads that ask at once would all be told
def available(env: str) -> str:
    """docker, or venv with a word on why."""
    because = "No container engine answers."
    if engine.may_answer():
        made = env in image.names()
        because = f"There is no image of it: `doit image:{env}` makes one." if made else "Its driver is the host's."
        if image.recorded(env):
            try:
                if image.find(env):
                    return "docker"
            except EngineError as error:
                because = error.fact
    say(f"environment {env}: a venv. {because}")
    return "venv"


def python_of(env: str) -> str:
    """The version of Python that jobs of the environment run in, as 3.11."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    locked = image.base()["python"]
    return own if own == locked or chosen(env) == "venv" else locked


def prepare(env: str) -> None:
    """Let a step's process start ahead of its work, where the runner can."""
    if chosen(env) == "venv":
        process.prepare(env)


def run(job: Job, action: Mapping[str, Any], log: Path, label: str, echo: Callable[[str], None] | None = None) -> Any:
    """Hand `action` as JSON to the job's process; returns its result.

    Lines with PREFIX are messages (progress, result, error); others go to the log and to `echo`. Raises the step's own
    error, or StepFailed.
    """
    heard = _run(job, action, log, label, echo or (lambda line: None))
    if "result" not in heard:
        raise StepFailed(
            f"{label} ended without a result.", "The pass ended its process itself.", f"Read {paths.shown(log)}."
        )
    return heard["result"]


def call(job: Job, log: Path) -> None:
    """Run the job with its plain arguments. Raises StepFailed."""
    _run(job, {}, log, job.arguments[1], lambda line: None)


def _run(job: Job, action: Mapping[str, Any], log: Path, label: str, echo: Callable[[str], None]) -> dict[str, Any]:
    """What it told. Raises the step's own error, StepFailed."""
    runner: Any = RUNNERS[chosen(job.environment)]
    runner.make_ready(job.environment)  # first: what is made has a log and a bar of its own
    heard: dict[str, Any] = {}
    with open_log(log) as file, bar(label, job.unit) as draw:
        try:
            code = talk(runner.start(job), job.seconds, action, file, draw, echo, heard)
        except subprocess.TimeoutExpired:
            raise StepFailed(
                f"{label} did not end within {job.seconds:,} s.",
                "It hangs, or has more to do than its pass allows for.",
                f"Read {paths.shown(log)}; a pass declares TIMEOUT_S.",
            ) from None
    if "error" in heard:
        raise Refused(**heard["error"])
    if code:
        raise _crashed(label, code, log)
    if "open" in heard:
        _say_open(heard["open"])
    return heard


@functools.cache
def _say_open(reason: str) -> None:
    """Once for a build."""
    say(f"steps are not cut off from files and network here: {reason}")


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
