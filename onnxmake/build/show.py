"""A target as it was read, as TOML again: what it is like filled in, every option with its value."""

import json
from typing import Any

from onnxmake.build.report import say
from onnxmake.build.target import Target


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)  # of strings, numbers and booleans, JSON's form is TOML's


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]


def toml(target: Target) -> str:
    """A target file that reads as `target`, with nothing left to defaults."""
    blocks = [[f"# {target.description}", *_lines({"device": target.device, "unproven": target.unproven})]]
    blocks.append(["[source]", *_lines(vars(target.source))])
    for use in target.passes:
        limits = {"may_skip": use.may_skip, "memory_mb": use.memory_mb}
        blocks.append(["[[pass]]", *_lines({"use": use.declaration.name} | vars(use.options) | limits)])
    blocks.append(["[check]", *_lines(vars(target.check))])
    blocks.append(["[bench]", *_lines(vars(target.bench))])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def show(target: Target) -> None:
    """Print the target."""
    say(toml(target).rstrip())
