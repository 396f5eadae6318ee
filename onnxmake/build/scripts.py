"""Scripts of the user's: whether one may run, which files go with it, and where a later pass reads what it made.

A script's step sees the script, the modules beside it that its imports lead to, and what its strings, or the target's, name there;
all of them are in its key.
"""

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmake.build import paths, settings
from onnxmake.build.dataset import MADE
from onnxmake.build.digest import digest_file
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError

if TYPE_CHECKING:
    from onnxmake.build.target import Use

FOLDER = "script"  # where a step sees the files
SAMPLES = 8  # of a twin's calibration, where a script says how many there are
MEANING = "A script is a program: it runs in a step without network, which sees the checkpoint and the files beside it that it names."
ALLOW = "Read it; then doit allow_scripts=true ..., or allow_scripts = true in a target file of yours."


def allowed() -> bool:
    """Whether the person who runs this has said so: no file that came from elsewhere can. Raises TargetError."""
    return settings.choice("allow_scripts", ("false", "true")) == "true"


@functools.cache
def _read(file: Path, sha256: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Modules that a Python file imports, and its strings; none of one that does not parse: running it says why."""
    try:
        nodes = [*ast.walk(ast.parse(file.read_bytes()))]
    except (SyntaxError, ValueError):
        return (), ()
    names = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    names += [f"{n.module or ''}.{a.name}".strip(".") for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names]
    strings = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return tuple(names), tuple(strings)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _inside(folder: Path, at: Path, name: str) -> list[Path]:
    """The file of that name, seen from `at` and below `folder`, links followed; or all files of a folder below it."""
    if not name.strip("./ ") or len(name) > 255 or "\n" in name:
        return []
    try:
        path = (at / name).resolve()
        if path == folder or not path.is_relative_to(folder):
            return []
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        return [file for file in found if file.is_file() and "__pycache__" not in file.parts]
    except (OSError, ValueError):  # no name of a file
        return []


def _places(modules: tuple[str, ...]) -> list[str]:
    """Where the modules would lie, and the packages that they are in."""
    names = {name.rsplit(".", i)[0].replace(".", "/") for name in modules for i in range(name.count(".") + 1)}
    return [f"{name}{end}" for name in names for end in (".py", "/__init__.py")]


def beside(script: Path, named: Any) -> dict[str, Path]:
    """Name as a step sees it -> file, of all that goes with a script; `named`: options, whose strings count as its own do."""
    folder, found = script.resolve().parent, set()
    todo = [script.resolve(), *(file for text in _strings(named) for file in _inside(folder, folder, text))]
    while todo:
        file = todo.pop()
        found.add(file)
        modules, strings = _read(file, digest_file(file)) if file.suffix == ".py" else ((), ())
        names = [(at, name) for name in (*_places(modules), *strings) for at in {folder, file.parent}]
        todo += [other for at, name in names for other in _inside(folder, at, name) if other not in found]
    return {f"{FOLDER}/{file.relative_to(folder).as_posix()}": file for file in sorted(found)}


def check(uses: Sequence["Use"], permitted: bool, text: str, where: str) -> None:
    """Raises TargetError for a script that may not run, and for a file that no script has made before it is read. `text`: that of
    [check]."""
    made: list[str] = []
    for number, use in enumerate(uses, 1):
        place = f"{where}: {use.declaration.name} of {use.options.script}" if hasattr(use.options, "evaluate") else ""
        place = place or f"{where}: [[pass]] {number} ({use.declaration.name})"
        script = getattr(use.options, "script", None)
        if script is not None and not (permitted or allowed()):
            raise TargetError(
                f"{place} runs {paths.shown(use.files[script])}, and no script is allowed.", MEANING, ALLOW
            )
        for name in use.made:
            if name not in made:
                raise TargetError(
                    f"{place}: {MADE}{name} is made by no pass before it.",
                    'A script makes it: use = "run_script", above.',
                    nearest(name, made) if made else f'Add [[pass]] with use = "run_script" and output = "{name}".',
                )
        output = getattr(use.options, "output", None) if script is not None else None
        if output in made:
            raise TargetError(
                f"{place}: output = {output!r} is there already.", "Two scripts write one file.", "Name another."
            )
        made += [output] if output else []
    if text and text not in made:
        raise TargetError(
            f"{where}: [check]: {MADE}{text} is made by no pass.",
            'A script makes it: use = "run_script".',
            nearest(text, made) if made else "Name a file beside the target.",
        )


def without(use: "Use") -> "Use":
    """For a twin, whose tokenizer and widths are others: calibrated with the text that comes along."""
    if not use.made:
        return use
    text = {"calibration.txt": paths.TEXTS / "calibration.txt"}
    few = {"samples": use.options.samples or SAMPLES}
    options = replace(use.options, calibration="calibration.txt", **few)
    return replace(use, options=options, files={**use.files, **text}, made=())
