"""Comments on the fields of dataclasses, which are their documentation: beside a field, or in the lines above it."""

import ast
import dataclasses
import functools
import io
import sys
import tokenize
from pathlib import Path

from onnxmake.build import paths


def comments(cls: type) -> dict[str, str]:
    """Field -> comment, of the dataclass and those that it extends; the nearest wins."""
    found: dict[str, str] = {}
    for kind in reversed([kind for kind in cls.__mro__ if dataclasses.is_dataclass(kind)]):
        found |= _of(_file(kind.__module__), kind.__name__)
    return found


def _file(module: str) -> Path:
    """Passes are read, never imported."""
    package, _, name = module.rpartition(".")
    return paths.PASSES / f"{name}.py" if package == "passes" else Path(str(sys.modules[module].__file__))


@functools.cache
def _of(file: Path, name: str) -> dict[str, str]:
    text = file.read_text("utf-8")
    tokens = [*tokenize.generate_tokens(io.StringIO(text).readline)]
    told = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    alone = {line for line in told if text.splitlines()[line - 1].lstrip().startswith("#")}
    (found,) = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name)
    out: dict[str, str] = {}
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            lines = [told[line] for line in range(first, node.end_lineno + 1) if line in told]
            if lines:
                out[node.target.id] = " ".join(lines)
    return out
