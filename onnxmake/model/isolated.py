"""Calls in processes of their own: what one exhausts, crashes or never ends does not concern the next."""

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from onnxmake.errors import OnnxmakeError


def isolated(function: Callable[..., Any], *args: Any, log: str, seconds: float) -> dict[str, Any]:
    """{"result": what the function returned}, {"refused": the fact of an OnnxmakeError} or {"failed": any other error}.

    Results travel as JSON. What the function prints goes to the file `log`.
    """
    answers, answer = os.pipe()
    child = os.fork()  # not multiprocessing, which closes standard input: a thread of the parent may be reading it
    if child == 0:
        try:
            said = _outcome(function, args, log)
            sys.stdout.flush()
            with os.fdopen(answer, "w") as out:
                out.write(said)
        finally:
            os._exit(0)
    os.close(answer)
    try:
        if not select.select([answers], [], [], seconds)[0]:
            return {"failed": f"did not end within {seconds:.0f} s"}
        with os.fdopen(os.dup(answers)) as text:
            said = text.read()
        return json.loads(said) if said else {"failed": "its process ended without a word"}
    finally:
        os.close(answers)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _outcome(function: Callable[..., Any], args: tuple, log: str) -> str:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)  # standard output is for messages to the build
    os.dup2(file, 2)
    try:
        return json.dumps({"result": function(*args)})
    except OnnxmakeError as error:
        return json.dumps({"refused": error.fact})
    except BaseException as error:
        traceback.print_exc()
        why = next(iter(str(error).strip().splitlines()), "")
        return json.dumps({"failed": f"{type(error).__name__}: {why}"})
