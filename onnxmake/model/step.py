"""What a step's process does with its action.

{"pass", "file", "options", "may_skip", "work", "read", "write"} -> the pass loaded by path and run on work/src into
work/out, its graph verified and saved in one form.
"""

import errno
import importlib
import os
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.errors import PassError
from onnxmake.model import sandbox
from onnxmake.model.later import postpone_sympy
from onnxmake.model.memory import peak_bytes
from onnxmake.model.progress import tell
from onnxmake.model.serve import serve

STRAY = {
    errno.ENOENT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
}  # and below 0: a name that is not found


def load_pass(name: str, file: Path) -> types.ModuleType:
    """The pass as a module, compiled from its source."""
    module = types.ModuleType(f"passes.{name}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    return module


def _options(module: types.ModuleType, values: Mapping[str, Any]) -> Any:
    return module.Options(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    """As the host has read it: lists are tuples."""
    if isinstance(value, dict):
        return {name: _frozen(inner) for name, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def run_pass(name: str, file: Path, options: Mapping[str, Any], may_skip: bool, src: Path, out: Path) -> list[str]:
    """Apply one pass to the files in `src`, into the empty folder `out`. Returns names of inputs that are results as they are.

    Those of a pass with `run` are what that returns. A rewrite that changes nothing is an error unless it may skip.
    """
    module = load_pass(name, file)
    o = _options(module, options)
    if hasattr(module, "run"):
        return sorted(module.run(src, out, o) or [])
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
    return sorted(path.name for path in src.iterdir() if path.is_file() and path.name != "model.onnx")


def _load_ahead(names: Sequence[str]) -> None:
    """Import modules before there is an action, by name: what is only loaded early is no part of a pass's code."""
    for name in names:
        module = importlib.import_module(name)
        if hasattr(module, "load"):
            module.load()


def _forget_but(files: Sequence[str]) -> None:
    """Of this project's modules that are loaded already, leave those that the step's key names."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith("onnxmake.") and file is not None and file not in files:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            vars(sys.modules.get(parent, module)).pop(child, None)


def _handle(action: dict, open_because: str | None) -> dict:
    work = Path(action["work"])
    os.environ |= {name: str(work / "tmp") for name in ("HOME", "TMPDIR")}
    tempfile.tempdir = str(
        work / "tmp"
    )  # it would look for one that can be written, and call a full disk a missing folder
    os.chdir(work)
    if open_because is None:
        sandbox.confine(work, [*action["read"], sys.prefix, sys.base_prefix], action["write"])
    elif open_because:
        tell(open=open_because)
    _forget_but(action["read"])
    try:
        kept = run_pass(
            action["pass"], Path(action["file"]), action["options"], action["may_skip"], work / "src", work / "out"
        )
    except OSError as error:
        number = error.errno if error.errno is not None else getattr(getattr(error, "reason", None), "errno", None)
        if number not in STRAY and (number or 0) >= 0:
            raise
        raise PassError(
            f"{action['pass']} could not read or write {error.filename or 'an address'}: {error.strerror or error}.",
            "A step sees the files its pass declares in READS, writes to its output folder, and has no network.",
            "Declare the file in READS, or see the log for where the pass asks for it.",
        ) from error
    return {"kept": kept, "memory": peak_bytes()}


def main(ahead: Sequence[str], open_because: str | None) -> None:
    """Serve one action, with the modules named by `ahead` loaded already.

    `open_because` says why this process does not cut itself off: empty in a container, which does; None where it has.
    """
    postpone_sympy()
    _load_ahead(ahead)
    serve(lambda action: _handle(action, open_because))
