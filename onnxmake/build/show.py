"""A target as it was read, as TOML again: what it is like filled in, every option with its value."""

import json
import os
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.report import say
from onnxmake.build.target import Target


def value(given: Any) -> str:
    if isinstance(given, tuple):
        return f"[{', '.join(map(value, given))}]"
    if isinstance(given, dict):
        inner = ", ".join(f"{json.dumps(name, ensure_ascii=False)} = {value(v)}" for name, v in given.items())
        return f"{{ {inner} }}" if inner else "{}"
    text = json.dumps(given, ensure_ascii=False)  # of strings, numbers and booleans, JSON's form is TOML's
    return text.replace("\x7f", "\\u007f")  # but for this character


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {value(given)}" for key, given in table.items() if given is not None]


def _beside(option: str, file: Path, target: Target) -> str:
    """How the target names an option's file; the text that comes along has no name."""
    return "" if file == paths.TEXTS / f"{option}.txt" else Path(os.path.relpath(file, target.file.parent)).as_posix()


def passes(target: Target) -> str:
    """The target's list of passes."""
    blocks = []
    for use in target.passes:
        limits = {"may_skip": use.may_skip, "memory_mb": use.memory_mb}
        named = {
            (name := Path(staged).stem): use.hub.get(staged) or _beside(name, file, target)
            for staged, file in use.files.items()
        }
        blocks.append(["[[pass]]", *_lines({"use": use.declaration.name} | vars(use.options) | named | limits)])
    return "\n\n".join("\n".join(block) for block in blocks)


def _search(target: Target) -> list[list[str]]:
    if target.search is None:
        return []
    blocks = [["[search]", *_lines(vars(target.search.settings))]]
    for axis in target.search.axes:
        if (head := f"[search.{axis.name}]") != blocks[-1][0]:
            blocks.append([head])
        between = f"{{ low = {axis.low}, high = {axis.high} }}"
        blocks[-1].append(f"{axis.option} = {value(axis.values) if axis.values else between}")
    return blocks


def toml(target: Target) -> str:
    """A target file that reads as `target`, with nothing left to defaults."""
    blocks = [[f"# {target.description}", *_lines({"device": target.device, "unproven": target.unproven})]]
    blocks.append(["[source]", *_lines(vars(target.source))])
    blocks.append([passes(target)])
    blocks.append(["[check]", *_lines(vars(target.check))])
    blocks.append(["[bench]", *_lines(vars(target.bench))])
    if stated := _lines(vars(target.release)):
        blocks.append(["[release]", *stated])
    return "\n\n".join("\n".join(block) for block in blocks + _search(target)) + "\n"


def show(target: Target) -> None:
    """Print the target."""
    say(toml(target).rstrip())
