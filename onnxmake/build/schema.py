"""Strict reading of tables into frozen dataclasses.

The dataclass is the schema, and every error names file, key and the nearest valid name.
"""

import dataclasses
import functools
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxmake.errors import TargetError
from onnxmake.model.nearest import nearest as nearest


def plain(value: Any) -> Any:
    """An option's value as TOML and JSON have it: lists are no tuples."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple) else value


def _expected(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return "any value"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(a) for a in args if a is not type(None))
    if origin is tuple:
        return f"a list, each {_expected(args[0])}"
    if origin is dict:
        return f"a table, each {_expected(args[1])}"
    return {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}[kind]


def _convert(value: Any, kind: Any) -> Any:
    """The value as `kind`; ValueError where it is something else. bool is no int, a whole number is a float."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        if any(value == a and type(value) is type(a) for a in args):
            return value
    elif origin in (Union, types.UnionType):
        for choice in (a for a in args if a is not type(None)):
            try:
                return _convert(value, choice)
            except ValueError:
                continue
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_convert(v, args[0]) for v in value)
    elif origin is dict:
        if isinstance(value, dict):
            return {name: _convert(v, args[1]) for name, v in value.items()}
    elif type(value) is kind or kind is float and type(value) is int:
        return kind(value)
    raise ValueError


_hints = functools.cache(get_type_hints)


def parse(cls: type, table: dict, where: str) -> Any:
    """An instance of the dataclass `cls` from `table`; `where` names file and table in errors. Raises TargetError."""
    fields, hints = {f.name: f for f in dataclasses.fields(cls)}, _hints(cls)
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise TargetError(
                f"{where}: unknown key {key!r}.",
                "A typing error, or an option of another pass or version.",
                nearest(key, fields),
            )
        try:
            values[key] = _convert(value, hints[key])
        except ValueError:
            names = [o for o in get_args(hints[key]) if isinstance(o, str)]  # those of a Literal
            advice = nearest(value, names) if isinstance(value, str) and names else f"Write {_expected(hints[key])}."
            raise TargetError(
                f"{where}: {key} = {value!r} is not {_expected(hints[key])}.",
                "The value has the wrong type or is out of range.",
                advice,
            ) from None
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TargetError(
                f"{where}: key {name!r} is missing.", "It has no default.", f"Add {name} = {_expected(hints[name])}."
            )
    try:
        return cls(**values)
    except ValueError as error:
        raise TargetError(
            f"{where}: {error}.", "A value is out of range, or two do not go together.", "Change it in the target file."
        ) from None
