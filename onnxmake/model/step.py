"""The entry of a step's process: an action as JSON on standard input, messages as JSON lines on standard output.

{"pass", "file", "options", "may_skip", "src", "out"} -> the pass loaded by path, run, and its graph verified and saved
in one form.
"""

import importlib
import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.errors import OnnxmakeError, PassError, UnsupportedError
from onnxmake.model.later import postpone_sympy
from onnxmake.model.progress import tell


def load_pass(name: str, file: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"passes.{name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _options(module: types.ModuleType, values: Mapping[str, Any]) -> Any:
    return module.Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def run_pass(name: str, file: Path, options: Mapping[str, Any], may_skip: bool, src: Path, out: Path) -> None:
    """Apply one pass to the files in `src`, into the empty folder `out`.

    A rewrite that changes nothing is an error unless it may skip.
    """
    module = load_pass(name, file)
    o = _options(module, options)
    if hasattr(module, "run"):
        module.run(src, out, o)
        return
    import onnx_ir as ir

    from onnxmake.model import canonical

    model = ir.load(src / "model.onnx")
    if not module.rewrite(model, o) and not may_skip:
        raise PassError(
            f"{name} changed nothing.",
            "The graph holds nothing that the pass works on, or an earlier pass already did the same.",
            "Remove the pass from the target, or write may_skip = true under it.",
        )
    canonical.save(model, out / "model.onnx")
    for path in src.iterdir():
        if path.is_file() and path.name != "model.onnx":
            os.link(path, out / path.name)  # the same file: the store need not read it again


def serve(handle: Callable[[dict], Any]) -> None:
    """Read an action, handle it, report its result or its error.

    Errors that a person can act on end with exit code 1, bugs with their trace.
    """
    text = sys.stdin.read()
    if not text:  # the build ended before it had work for this process
        return
    action = json.loads(text)
    try:
        tell(result=handle(action))
    except OnnxmakeError as error:
        hint = action.get("hint", "") if isinstance(error, UnsupportedError) else ""
        tell(error={"fact": error.fact, "cause": f"{error.cause} {hint}".strip(), "action": error.action})
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        tell(
            error={
                "fact": f"The step could not read or write {error.filename or 'its output'}: {os.strerror(error.errno)}.",
                "cause": "The disk is full, or a file may not be read or written.",
                "action": "Free space, or move ONNXMAKE_CACHE.",
            }
        )
        sys.exit(1)


def _load_ahead() -> None:
    """Import what most steps need before there is an action.

    By name: what is only loaded early is no part of a pass's code.
    """
    importlib.import_module("onnxmake.model.canonical")
    importlib.import_module("onnxmake.model.kernels").load()


def _handle(action: dict) -> None:
    src, out = Path(action["src"]), Path(action["out"])
    os.chdir(src.parent)
    run_pass(action["pass"], Path(action["file"]), action["options"], action["may_skip"], src, out)


if __name__ == "__main__":
    postpone_sympy()
    if "--ahead" in sys.argv:
        _load_ahead()
    serve(_handle)
