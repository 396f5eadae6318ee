"""A target as it was read, as TOML again: what it is like filled in, every option with its value."""

import json
import os
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.dataset import MADE
from onnxmake.build.report import say
from onnxmake.build.target import Target, Use


def value(given: Any) -> str:
    if isinstance(given, tuple | list):
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


def _options(use: Use, target: Target) -> list[str]:
    """Of a pass, with files as the target names them."""
    named = {}
    for name, given in vars(use.options).items():
        if given in [*use.files]:
            named[name] = use.hub.get(given) or _beside(name, use.files[given], target)
        elif given in [f"checkpoint/{file}" for file in use.made]:
            named[name] = MADE + given.removeprefix("checkpoint/")
    return _lines(vars(use.options) | named | {"may_skip": use.may_skip, "memory_mb": use.memory_mb})


def passes(target: Target) -> str:
    """The target's list of passes."""
    blocks = [["[[pass]]", f'use = "{use.declaration.name}"', *_options(use, target)] for use in target.passes]
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
    allowed = (
        {"allow_scripts": True}
        if any(hasattr(use.options, "script") for use in (*target.passes, *target.metrics))
        else {}
    )
    blocks = [[f"# {target.description}", *_lines({"device": target.device, "unproven": target.unproven, **allowed})]]
    blocks.append(["[source]", *_lines(vars(target.source))])
    blocks.append([passes(target)])
    blocks += [["[[metric]]", *_options(use, target)] for use in target.metrics]
    blocks.append(["[check]", *_lines(vars(target.check))])
    blocks.append(["[bench]", *_lines(vars(target.bench))])
    if stated := _lines(vars(target.release)):
        blocks.append(["[release]", *stated])
    return "\n\n".join("\n".join(block) for block in blocks + _search(target)) + "\n"


def show(target: Target) -> None:
    """Print the target."""
    say(toml(target).rstrip())
