"""How a process serves the build: one action as a line of JSON on standard input, messages as lines on standard output."""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from onnxmake.errors import OnnxmakeError, StoreError, UnsupportedError
from onnxmake.model.progress import tell


def serve(handle: Callable[[dict], Any]) -> None:
    """Read an action, handle it, report its result or its error.

    Errors that a person can act on end with exit code 1, bugs with their trace. Standard input stays open for as long as
    the build lives: when it closes, this process and those it started end.
    """
    text = sys.stdin.readline()
    if not text:  # the build ended before it had work for this process
        return
    threading.Thread(target=_end_with_the_build, daemon=True).start()
    action = json.loads(text)
    try:
        tell(result=_handled(handle, action))
    except OnnxmakeError as error:
        if error.__cause__:
            traceback.print_exc()  # for the log
        hint = action.get("hint", "") if isinstance(error, UnsupportedError) else ""
        tell(error={"fact": error.fact, "cause": f"{error.cause} {hint}".strip(), "action": error.action})
        sys.exit(1)


def _handled(handle: Callable[[dict], Any], action: dict) -> Any:
    try:
        return handle(action)
    except OSError as error:
        if error.errno is None:
            raise
        raise StoreError(
            f"Could not read or write {error.filename or 'the output'}: {os.strerror(error.errno)}.",
            "The disk is full, or a file may not be read or written.",
            "Free space, correct the rights, or move ONNXMAKE_CACHE.",
        ) from error


def _end_with_the_build() -> None:
    sys.stdin.read()
    if os.name != "nt" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)  # in namespaces, their first process takes the others along
