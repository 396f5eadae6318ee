"""The table of a target file. One that says `like = "other"` has the other's keys but for those that it writes itself."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError

ONE = "A target is like one other in all that it does not write itself, one level deep."


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text("utf-8")
        return text, tomllib.loads(text)
    except ValueError as error:
        raise TargetError(
            f"{paths.shown(file)} is not TOML: {error}.",
            "A quote, bracket or equals sign is missing there.",
            "Mend that line.",
        ) from None


def load(file: Path, files: Mapping[str, Path] | None = None) -> tuple[str, dict[str, Any]]:
    """The file's text, and its table with what it is like filled in: another of `files`, name -> file, or of its folder.

    Raises TargetError.
    """
    text, table = _read(file)
    if "like" not in table:
        return text, table
    others = {other.stem: other for other in file.parent.glob("*.toml")} if files is None else files
    return text, _liked(file, table.pop("like"), others) | table


def _liked(file: Path, name: Any, files: Mapping[str, Path]) -> dict[str, Any]:
    """The table of the target that `file` says it is like, its folder as seen from there."""
    where = paths.shown(file)
    if not isinstance(name, str) or name not in files or files[name] == file:
        raise TargetError(
            f"{where}: like = {name!r} is not the name of another target.",
            ONE,
            nearest(str(name), {*files} - {file.stem}),
        )
    table = _read(files[name])[1]
    if "like" in table:
        raise TargetError(
            f"{where}: {name}, which it is like, is itself like {table['like']}.",
            ONE,
            f'Write like = "{table["like"]}".',
        )
    source = table.get("source")
    if isinstance(source, dict) and isinstance(source.get("path"), str) and files[name].parent != file.parent:
        table["source"] = source | {"path": str(files[name].parent / source["path"])}
    return table
