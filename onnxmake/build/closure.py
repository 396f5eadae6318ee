"""Which files of the checkout a step's code can reach: its pass, and the onnxmake modules that imports lead to."""

import ast
import functools
from collections.abc import Iterable
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.digest import digest_file

ENTRY = "onnxmake.model.boot"
TABLES = "onnxmake.model.lowering"  # loads the table named by the step's device


def _file(module: str) -> Path | None:
    base = paths.ROOT / module.replace(".", "/")
    return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """onnxmake modules that a file imports, anywhere in it, their packages included."""
    return _parsed(path, digest_file(path))


@functools.cache
def _parsed(path: Path, sha256: str) -> frozenset[str]:
    """Once for each content: builds look again at what they run, before every step and after it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parents = {name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)}
    return frozenset(name for name in parents if name.split(".")[0] == "onnxmake" and _file(name))


def _reach(start: set[str], device: str | None) -> tuple[Path, ...]:
    """Files of the modules that imports lead to, in order; of the device tables, the one that `device` needs."""
    seen: set[str] = set()
    todo = set(start)
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= imports(_file(name)) - seen
        if name == TABLES and device:
            todo |= {f"{TABLES}.{device}"} - seen
    return tuple(sorted(_file(name) for name in seen))


@functools.cache
def modules(path: Path, device: str | None) -> tuple[Path, ...]:
    """The module files that the pass at `path` can reach on its device."""
    return _reach({ENTRY, *imports(path)}, device)


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {p.relative_to(paths.ROOT).as_posix(): digest_file(p) for p in files}


def code_digests(path: Path, device: str | None) -> dict[str, str]:
    """File, relative to the checkout -> sha256, of all code that the pass can reach."""
    return _digests((path, *modules(path, device)))


def digests_of(names: Iterable[str]) -> dict[str, str]:
    """The same of the modules with these names and what they reach."""
    return _digests(_reach({ENTRY, *names}, None))
