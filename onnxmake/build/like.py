"""The table of a target file. One that says `like = "other"` has the other's keys but for those that it writes itself."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError

PATHS = (("source", "path"), ("check", "text"))  # what is said relative to the file
ONE = "A target is like one other in all that it does not write itself, one level deep."


def read(file: Path) -> tuple[str, dict[str, Any]]:
    """The file's text and table as they stand. Raises TargetError."""
    try:
        text = file.read_text("utf-8")
        return text, tomllib.loads(text)
    except ValueError as error:
        raise TargetError(
            f"{paths.shown(file)} is not TOML: {error}.",
            "A quote, bracket or equals sign is missing there.",
            "Mend that line.",
        ) from None


def around(file: Path) -> dict[str, Path]:
    """The targets of the file's folder, name -> file."""
    return {other.stem: other for other in file.parent.glob("*.toml")}


def load(file: Path, files: Mapping[str, Path] | None = None, reader: Callable = read) -> tuple[str, dict[str, Any]]:
    """The file's text, and its table with what it is like filled in: another of `files`, name -> file, or of its folder.

    Who reads many targets gives a `reader` that remembers. Raises TargetError.
    """
    text, table = reader(file)
    if "like" not in table:
        return text, table
    others = around(file) if files is None else files
    own = {key: value for key, value in table.items() if key != "like"}
    return text, _liked(file, table["like"], others, reader) | own


def _liked(file: Path, name: Any, files: Mapping[str, Path], reader: Callable) -> dict[str, Any]:
    """The table of the target that `file` says it is like, its paths as seen from there."""
    where = paths.shown(file)
    if not isinstance(name, str) or name not in files or files[name] == file:
        raise TargetError(
            f"{where}: like = {name!r} is not the name of another target.",
            ONE,
            nearest(str(name), {*files} - {file.stem}),
        )
    table = reader(files[name])[1]
    if "like" in table:
        raise TargetError(
            f"{where}: {name}, which it is like, is itself like {table['like']}.",
            ONE,
            f'Write like = "{table["like"]}".',
        )
    for key, path in PATHS if files[name].parent != file.parent else ():
        part = table.get(key)
        if isinstance(part, dict) and isinstance(part.get(path), str):
            table = table | {key: part | {path: str(files[name].parent / part[path])}}
    return table
