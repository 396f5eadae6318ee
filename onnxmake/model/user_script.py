"""A script of the user's inside a step: loaded beside what it names, called, and its mistakes told by its own lines."""

import contextlib
import importlib.util
import inspect
import os
import random
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from onnxmake.errors import OnnxmakeError, StepFailed, TargetError
from onnxmake.model import olive_names
from onnxmake.model.nearest import nearest

NOWHERE = ("192.0.2.1", 9)  # of a network for documentation: a datagram socket that connects sends nothing
CLOSED = "A script has no network; it sees the checkpoint, and what it or the target names of the files beside it."


def _cut_off() -> bool:
    """Whether there is no way to a network, and a root that cannot be written: in namespaces and containers alike."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        reached = probe.connect_ex(NOWHERE) == 0
    return not reached and hasattr(os, "statvfs") and bool(os.statvfs("/").f_flag & os.ST_RDONLY)


def load(script: Path, checkpoint: Path, model: str) -> ModuleType:
    """The script as a module. It runs in a folder that shows the files staged with it, and the checkpoint under its name `model`.

    Raises StepFailed where steps are not cut off, TargetError for a script that fails.
    """
    if not _cut_off():
        raise StepFailed(
            f"{script.name} is not run: this step can reach files and network.",
            "ONNXMAKE_SANDBOX is off, or the system has no namespaces.",
            "Build where it has, or in containers: doit runner=docker ...",
        )
    place = Path(tempfile.mkdtemp())
    for entry in script.parent.iterdir():
        (place / entry.name).symlink_to(entry)
    if model and not os.path.isabs(model) and ".." not in Path(model).parts and not (place / model).exists():
        (place / model).parent.mkdir(parents=True, exist_ok=True)
        (place / model).symlink_to(checkpoint.absolute(), target_is_directory=True)
    os.chdir(place)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(script.parent))
    olive_names.install()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  what scripts of others draw from
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[script.stem] = module
    with telling(script):
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@contextlib.contextmanager
def telling(script: Path) -> Iterator[None]:
    """What the script raises meanwhile, as a TargetError with its file, line and words; the trace goes to the log."""
    try:
        yield
    except OnnxmakeError:
        raise
    except (Exception, SystemExit) as error:
        raise _told(error, script) from error


def _place(error: BaseException, script: Path) -> str:
    """The innermost line of the script's, or of a module beside it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    folder = script.parent.resolve()
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).absolute().is_relative_to(folder)
    ]
    return f"{Path(frames[-1].filename).relative_to(folder)}, line {frames[-1].lineno}" if frames else script.name


def _told(error: BaseException, script: Path) -> TargetError:
    words = next(iter(str(error).strip().splitlines()), "")
    fact = f"{_place(error, script)}: {type(error).__name__}: {words}".rstrip(": ").removesuffix(".") + "."
    if isinstance(error, ImportError):
        missing = str(error.name or "")
        if missing.split(".")[0] == "olive":
            return TargetError(
                fact, "Of Olive there is only what data and metrics of scripts take.", f"Use {olive_names.known()}."
            )
        advice = "Do without it, or add it to containers/script/requirements.in and lock again."
        return TargetError(fact, "It is neither beside the script nor in the environment script.", advice)
    if isinstance(error, OSError) or "Connect" in type(error).__name__:
        return TargetError(fact, CLOSED, "Save what it loads as a file beside the script, and name that there.")
    return TargetError(
        fact, "The script fails on what it reads or is given.", "Mend that line; the step's log has the whole trace."
    )


def found(module: ModuleType, kind: str, name: str) -> Callable[..., Any]:
    """What the script has registered under the name, in any letters, or its function of that name. Raises TargetError."""
    there = olive_names.Registry.of(kind) if kind in olive_names.KINDS else {}
    function = there.get(name.lower()) or getattr(module, name, None)
    if not callable(function):
        known = [
            *there,
            *(n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__),
        ]
        raise TargetError(
            f"{Path(str(module.__file__)).name} has no {name!r}.",
            f"It has no such function{f', and registers none as {kind}' if kind in olive_names.KINDS else ''}.",
            nearest(name, known),
        )
    return function


def call(function: Callable[..., Any], first: tuple, settings: Mapping[str, Any]) -> Any:
    """As Olive calls it: settings by name, and None for what has neither a setting nor a default."""
    open_ = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = [name for name, p in inspect.signature(function).parameters.items() if p.kind in open_][len(first) :]
    parameters = inspect.signature(function).parameters
    unset = {n: None for n in taken if n not in settings and parameters[n].default is inspect.Parameter.empty}
    return function(*first, **unset, **settings)
