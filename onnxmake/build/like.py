"""The table of a target file. One that says `like = "other"` has the other's keys but for those that it writes itself."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError

FILES = (
    "path",
    "text",
    "calibration",
    "data",
    "weights",
    "config",
    "script",
)  # keys that name a file, relative to the target's
RELEASE = ".release.toml"  # how the name of a file ends that names targets to release together
WORKFLOW = (b'"input_model"', b'"passes"')  # what a JSON file says that is one of Olive
ONE = "A target is like one other in all that it does not write itself, one level deep."


def read(file: Path) -> tuple[str, dict[str, Any]]:
    """The file's text and table as they stand; of a workflow of Olive, as it translates. Raises TargetError."""
    if file.suffix == ".json":
        from onnxmake.olive import reading  # where there is one: it takes its time

        return reading.read(file)
    try:
        text = file.read_text("utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise TargetError(
            f"{paths.shown(file)} cannot be read: {error.strerror}.", "", "Correct its permissions, or remove it."
        ) from None
    except ValueError as error:
        raise TargetError(
            f"{paths.shown(file)} is not TOML: {error}.",
            "A quote, bracket or equals sign is missing there.",
            "Mend that line.",
        ) from None


def description(text: str) -> str:
    """A target file's first comment; "#:" begins what is for an editor."""
    comments = (line for line in text.splitlines() if line.startswith("#") and not line.startswith("#:"))
    return next((line.lstrip("# ").rstrip() for line in comments), "")


def inside(folder: Path) -> dict[str, Path]:
    """The target files of a folder, name -> file: TOML, and workflows of Olive, of which one that was imported under its name is
    none; nor are release files."""
    files = {kind: [f for f in sorted(folder.glob(f"*.{kind}")) if f.is_file()] for kind in ("json", "toml")}
    found = [*filter(_is_workflow, files["json"]), *files["toml"]]
    return {file.stem: file for file in found if not file.name.endswith(RELEASE)}


def _is_workflow(file: Path) -> bool:
    """Whether it looks like one; what cannot be read is told of when it is asked for."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return any(word in content for word in WORKFLOW)


def load(file: Path, files: Mapping[str, Path] | None = None, reader: Callable = read) -> tuple[str, dict[str, Any]]:
    """The file's text, and its table with what it is like filled in: another of `files`, name -> file, or of its folder.

    Who reads many targets gives a `reader` that remembers. Raises TargetError.
    """
    text, table = reader(file)
    if "like" not in table:
        return text, table
    others = inside(file.parent) if files is None else files
    own = {key: value for key, value in table.items() if key != "like"}
    return text, _liked(file, table["like"], others, reader) | own


def _liked(file: Path, name: Any, files: Mapping[str, Path], reader: Callable) -> dict[str, Any]:
    """The table of the target that `file` says it is like, its paths as seen from there; what that one searches is its own."""
    where = paths.shown(file)
    if not isinstance(name, str) or name not in files or files[name] == file:
        raise TargetError(
            f"{where}: like = {name!r} is not the name of another target.",
            ONE,
            nearest(str(name), {*files} - {file.stem}),
        )
    table = {key: value for key, value in reader(files[name])[1].items() if key != "search"}
    if "like" in table:
        raise TargetError(
            f"{where}: {name}, which it is like, is itself like {table['like']}.",
            ONE,
            f'Write like = "{table["like"]}", and what {name} writes itself: {", ".join(sorted({*table} - {"like"})) or "nothing"}.',
        )
    if files[name].parent == file.parent:
        return table
    return {key: _moved(value, files[name].parent) for key, value in table.items()}


def _moved(value: Any, folder: Path) -> Any:
    """[source] or [[pass]] with the files that it names, which are relative to `folder`, as seen from anywhere."""
    if isinstance(value, list):
        return [_moved(entry, folder) for entry in value]
    if not isinstance(value, dict):
        return value
    named = {key: value[key] for key in FILES if isinstance(value.get(key), str) and value[key]}
    return value | {key: str(folder / name) for key, name in named.items() if "://" not in name}
