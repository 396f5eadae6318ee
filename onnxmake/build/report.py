"""What a person reads while doit runs.

One line per step, a bar for long ones, and errors as fact, cause, next action.
"""

import contextlib
import contextvars
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from doit.exceptions import TaskFailed, UnmetDependency
from doit.reporter import ConsoleReporter

_listener: contextvars.ContextVar[Callable[[str], Any] | None] = contextvars.ContextVar("_listener", default=None)


def say(line: str) -> None:
    """One write for a line: steps side by side do not cut into each other's."""
    if listener := _listener.get():
        listener(line)
        return
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as with `doit build | head`: the build goes on
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


@contextlib.contextmanager
def heard_by(listener: Callable[[str], Any]) -> Iterator[None]:
    """Have what this thread says meanwhile go to `listener`, and nothing to the screen."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Reporter(ConsoleReporter):
    """doit's reporter: quiet about tasks, as steps speak for themselves; errors without traces unless they are bugs."""

    desc = "onnxmake: one line per step"

    def execute_task(self, task) -> None:
        pass

    def skip_uptodate(self, task) -> None:
        if task.name.startswith("build:"):
            say(f"{task.name}: up to date")

    def _write_failure(self, result, write_exception: bool = True) -> None:
        failure = result["exception"]
        if isinstance(failure, UnmetDependency):  # why has been said
            if result["task"].name.startswith("build:"):
                sys.stderr.write(f"{result['task'].name} was not built\n")
            return
        text = (
            failure.message
            if isinstance(failure, TaskFailed)
            else f"{result['task'].name} hit a bug:\n{failure.get_msg()}"
        )
        sys.stderr.write(f"\nERROR {text}\n")

    def complete_run(self) -> None:
        for message in self.runtime_errors:
            print(f"ERROR {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def bar(label: str, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that draws a bar with bytes and rate on a terminal, and a plain line every ten seconds
    elsewhere."""
    if sys.stderr.isatty() and _listener.get() is None:
        from tqdm import tqdm

        with tqdm(desc=f"  {label}", unit=unit, unit_scale=unit == "B", leave=False, disable=False, total=0) as drawn:

            def draw(done: int, total: int) -> None:
                drawn.total = total
                drawn.update(done - drawn.n)

            yield draw
        return
    started = last = time.monotonic()
    context = contextvars.copy_context()  # told by another thread, heard where this one is

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 10:
            last = now
            if unit == "B":
                rate = done / 1e6 / (now - started)
                context.run(say, f"  {label}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate:,.0f} MB/s")
            else:
                context.run(say, f"  {label}: {done} of {total} {unit}")

    yield tell
