"""A translated workflow as a target file, with what differs in comments."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import like
from onnxmake.build.show import value
from onnxmake.errors import OnnxmakeError


def _block(head: str, table: Mapping[str, Any]) -> Iterator[str]:
    lines = [
        f"{key} = {value(given)}" for key, given in table.items() if not isinstance(given, dict) or head != "[search]"
    ]
    if head != "[search]":
        yield "\n".join(filter(None, [head, *lines]))
        return
    yield "\n".join([head, *lines])
    for name, options in table.items():
        if isinstance(options, dict):
            yield "\n".join([f"[search.{name}]", *(f"{option} = {value(given)}" for option, given in options.items())])


def moved(table: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """The table with the files that it names, relative to one folder, as seen from another."""
    out = {}
    for key, given in table.items():
        if isinstance(given, dict):
            given = moved(given, old, new)
        elif isinstance(given, list):
            given = [moved(one, old, new) if isinstance(one, dict) else one for one in given]
        elif key in like.FILES and given and "://" not in given:
            given = Path(os.path.relpath(old / given, new)).as_posix()
        out[key] = given
    return out


def toml(header: str, notes: list[tuple[str, str]], table: Mapping[str, Any]) -> str:
    """The text of a target file whose table this is; what a workflow calls its passes stays in the comment's line."""
    lines = (
        "".join(c if c.isprintable() else " " for c in line)
        for line in (header, *(f"{item}: {text}." for item, text in notes))
    )
    head = [f"# {' '.join(line.split())}" for line in lines]
    head += [f"{key} = {value(table[key])}" for key in ("device", "allow_scripts") if key in table]
    blocks = ["\n".join(head)]
    for key in ("source", "pass", "metric", "check", "bench", "search"):
        given = table.get(key, {})
        for one in given if isinstance(given, list) else [given] if given else []:
            blocks += _block(f"[[{key}]]" if isinstance(given, list) else f"[{key}]", one)
    text = "\n\n".join(blocks) + "\n"
    try:
        right = tomllib.loads(text) == table
    except ValueError:
        right = False
    if not right:
        raise OnnxmakeError(
            "The target file would not say what the workflow says.",
            "A defect of onnxmake: nothing was written.",
            "Report it with the workflow.",
        )
    return text
