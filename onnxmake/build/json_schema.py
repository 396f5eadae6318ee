"""Target and release files as JSON Schema, from the dataclasses and passes that read them: editors complete and check by it.

What it cannot know, the reader still says: whether files and other targets are there, and what no field says by itself.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxmake.build import releases
from onnxmake.build.commands import Command
from onnxmake.build.comments import comments
from onnxmake.build.declaration import Declaration, declaration, pass_names
from onnxmake.build.device import devices
from onnxmake.build.gates import Check
from onnxmake.build.limits import OF_FIELDS, OF_OPTIONS, OF_TABLES
from onnxmake.build.report import say
from onnxmake.build.schema import nearest, plain
from onnxmake.build.space import Settings
from onnxmake.build.stages import ONCE
from onnxmake.build.target import METRIC, Bench, Release, Source
from onnxmake.errors import TargetError

Schema = dict[str, Any]
SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean"}
RESERVED: dict[str, Schema] = {
    "may_skip": {"type": "boolean", "default": False, "description": "the pass may change nothing"},
    "memory_mb": {
        "type": "integer",
        "minimum": 1,
        "description": "what its process may use, if not what the pass declares",
    },
}


def typed(kind: Any) -> Schema:
    """A field's type, as `schema.parse` reads it. TOML has no null: what may be None may be left out."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin is Literal:
        return {"enum": [*args]}
    if origin in (Union, types.UnionType):
        found = [typed(a) for a in args if a is not type(None)]
        return found[0] if len(found) == 1 else {"anyOf": found}
    if origin is tuple:
        return {"type": "array", "items": typed(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": typed(args[1])}
    return {"type": SIMPLE[kind]}


def _fields(cls: type) -> dict[str, Schema]:
    """Field -> type, limits, default, comment."""
    hints, said, out = get_type_hints(cls), comments(cls), {}
    for f in dataclasses.fields(cls):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        known = {} if default in (dataclasses.MISSING, None) else {"default": plain(default)}
        text = {"description": said[f.name]} if f.name in said else {}
        out[f.name] = typed(hints[f.name]) | OF_FIELDS.get(cls, {}).get(f.name, {}) | known | text
    return out


def _needed(cls: type) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def closed(properties: Mapping[str, Schema], required: list[str], **more: Any) -> Schema:
    """A table with these keys and no others."""
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": dict(properties), **needed, "additionalProperties": False, **more}


def table(cls: type) -> Schema:
    return closed(_fields(cls), _needed(cls), description=str(cls.__doc__), **OF_TABLES.get(cls, {}))


def _pass(found: Declaration) -> Schema:
    about = found.doc.partition("\n\n")[0].replace("\n", " ")
    options = {name: field | OF_OPTIONS.get(name, {}) for name, field in _fields(found.options).items()}
    keys: dict[str, Schema] = {"use": {"const": found.name, "description": about}, **options, **RESERVED}
    needed = [name for name in _needed(found.options) if name != "device"]  # the target's, unless the pass says another
    return closed(keys, ["use", *needed], title=found.name, description=about)


def _metric() -> Schema:
    found = declaration(METRIC)
    return closed(_fields(found.options) | RESERVED, _needed(found.options), description=found.doc.partition("\n\n")[0])


def _axis(option: Schema) -> Schema:
    """Values of an option that a search tries, or two of a number between which it does."""
    one = {key: value for key, value in option.items() if key in ("type", "enum")}
    ways: list[Schema] = [{"type": "array", "minItems": 1, "items": one}]
    if one.get("type") in ("integer", "number") or all(type(v) is int for v in one.get("enum", [""])):
        ways.append(closed({"low": one, "high": one}, ["low", "high"]))
    return {"anyOf": ways}


def _searched(found: Declaration) -> Schema:
    simple = {n: o for n, o in _fields(found.options).items() if o.get("type") not in ("array", "object")}
    return closed({name: _axis(option) for name, option in simple.items()}, [])


def _once(names: list[str]) -> Schema:
    """Of a list of passes: exactly one of these."""
    one = {"required": ["use"], "properties": {"use": {"enum": names}}}
    return {"contains": one, "minContains": 1, "maxContains": 1}


def target_schema() -> Schema:
    """Of targets/NAME.toml."""
    passes = [declaration(name) for name in pass_names() if name != METRIC]
    first = [p.name for p in passes if all(pattern.startswith("checkpoint/") for pattern in p.reads)]
    one = {"$ref": "#/$defs/pass"}
    search = _fields(Settings) | {p.name: _searched(p) for p in passes}
    keys: dict[str, Schema] = {
        "like": {
            "type": "string",
            "description": "another target, whose keys are taken over but for those written here",
        },
        "device": {"enum": devices(), "description": "where the built model runs"},
        "unproven": {"type": "boolean", "default": False, "description": "build also what no sweep has found right"},
        "allow_scripts": {"type": "boolean", "default": False, "description": "scripts that the target names may run"},
        "source": table(Source),
        "pass": {
            "type": "array",
            "minItems": 1,
            "prefixItems": [{**one, "properties": {"use": {"enum": first}}}],
            "items": one,
            "allOf": [_once([p.name for p in passes if stage in p.stages]) for stage in ONCE],
            "description": "passes in order, from the checkpoint to the model's folder",
        },
        "check": table(Check),
        "bench": table(Bench),
        "search": closed(search, [], description="What `doit search` varies, and what it looks for."),
        "release": table(Release),
        "metric": {"type": "array", "items": _metric(), "description": "figures that functions of scripts give"},
    }
    keys["search"]["anyOf"] = [{"required": [p.name], "properties": {p.name: {"minProperties": 1}}} for p in passes]
    rest: Schema = {"if": {"required": ["like"]}, "else": {"required": ["device", "source", "pass"]}}
    return _document("a target of onnxmake", closed(keys, [], **rest)) | {
        "$defs": {"pass": {"oneOf": [*map(_pass, passes)]}}
    }


def release_schema() -> Schema:
    """Of targets/NAME.release.toml."""
    return _document("a release of several targets of onnxmake", table(releases.Keys))


def _document(title: str, body: Schema) -> Schema:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | body


KINDS = {"target": target_schema, "release": release_schema}


class PrintSchema(Command):
    """Print the JSON Schema of target files, or of release files: doit schema release."""

    doc_purpose = "print the JSON Schema of target files, for editors"
    doc_usage = "[target|release]"

    def work(self, plan, params, arguments):
        for name in arguments or ["target"]:
            if name not in KINDS:
                raise TargetError(f"There is no schema of {name!r}.", "A typing error.", nearest(name, KINDS))
            say(json.dumps(KINDS[name](), indent=1, ensure_ascii=False))
