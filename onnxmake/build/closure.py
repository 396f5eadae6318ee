"""Which files of the checkout a step's code can reach: its pass, and the onnxmake modules that imports lead to."""

import ast
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.digest import digest_file

ENTRY = "onnxmake.model.boot"
TABLES = "onnxmake.model.lowering"
CHOICES = {"device": TABLES, "name": "onnxmake.model.surgeries"}  # option -> the package that loads the module it names


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


def chosen(options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Of a step's options, package -> the module in it that one names."""
    return tuple((package, options[option]) for option, package in CHOICES.items() if option in options)


def _reach(start: set[str], named: Mapping[str, str]) -> tuple[Path, ...]:
    """Files of the modules that imports lead to, in order; of packages of choices, the one that is `named`."""
    seen: set[str] = set()
    todo = set(start)
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= imports(_file(name)) - seen
        if name in named:
            todo |= {f"{name}.{named[name]}"} - seen
    return tuple(sorted(_file(name) for name in seen))


@functools.cache
def modules(path: Path, named: tuple[tuple[str, str], ...]) -> tuple[Path, ...]:
    """The module files that the pass at `path` can reach with what its options have named."""
    return _reach({ENTRY, *imports(path)}, dict(named))


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {p.relative_to(paths.ROOT).as_posix(): digest_file(p) for p in files}


def code_digests(path: Path, named: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """File, relative to the checkout -> sha256, of all code that the pass can reach."""
    return _digests((path, *modules(path, named)))


def digests_of(names: Iterable[str]) -> dict[str, str]:
    """The same of the modules with these names and what they reach."""
    return _digests(_reach({ENTRY, *names}, {}))
