"""The talk between a build and the process that does its work: one action as a line of JSON, messages and log lines back."""

import contextlib
import contextvars
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TextIO

PREFIX = "@onnxmake "
KNOWN = ({"done", "total"}, {"result"}, {"error"}, {"open"})  # what a message may hold
PATIENCE = 5  # seconds to read what an ended process has left in the pipe


class Worker(Protocol):
    """What a runner starts."""

    stdin: Any  # text; while it is open, the build lives
    stdout: Iterable[str]  # lines of both of its streams

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative where a signal ended it. Raises subprocess.TimeoutExpired, and what a runner knows of its end."""

    def end(self) -> None:
        """End it and all that it started."""


def talk(
    worker: Worker,
    seconds: float,
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

    listener = threading.Thread(target=contextvars.copy_context().run, args=(listen,), daemon=True)
    listener.start()
    try:
        with contextlib.suppress(ConnectionError):  # it ended before it read: its exit code and log say why
            worker.stdin.write(json.dumps(action) + "\n")
            worker.stdin.flush()  # and left open: its end tells the process that the build is gone
        code = worker.wait(seconds)
    finally:
        worker.end()
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
