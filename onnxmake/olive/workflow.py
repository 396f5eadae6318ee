"""A workflow as Olive reads it: flat and nested forms are one, names stand for what they name. Nothing is translated here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
from onnxmake.olive import jsonc

TABLES: dict[str, Any] = {
    "input_model": dict,
    "systems": dict,
    "data_configs": (list, dict),
    "evaluators": dict,
    "engine": dict,
    "passes": dict,
    "builds": dict,
}
ENGINE = {  # keys of the engine, in its block or at the top level -> what they may be
    "search_strategy": (dict, bool, type(None)),
    "host": (str, dict, type(None)),
    "target": (str, dict, type(None)),
    "evaluator": (str, dict, type(None)),
    "execution_providers": (list, type(None)),
    "pass_flows": (list, type(None)),
}
QUIET = {  # of Olive's own house: cache, logs and where results go, which are doit's business
    *(
        "$schema",
        "workflow_id",
        "workflow_host",
        "output_dir",
        "output_name",
        "cache_dir",
        "cache_config",
        "clean_cache",
    ),
    *("clean_evaluation_cache", "enable_shared_cache", "log_severity_level", "ort_log_severity_level", "log_to_file"),
    *("ort_py_log_severity_level", "evaluate_input_model", "plot_pareto_frontier", "no_artifacts", "packaging_config"),
    *("ep_path_map", "include_packages", "auto_optimizer_config", "azureml_client", "disable_telemetry", "verbose"),
    "max_concurrent_builds",
}
PASS_KEYS = {"type", "config", "host", "evaluator", "disable_search", "output_name", "clean_run_cache"}


@dataclass(frozen=True)
class Pass:
    """One entry of `passes`: item names it in messages. `fixed`: a search varies nothing of it that it does not list."""

    item: str
    type: str
    options: Mapping[str, Any]
    fixed: bool = False


@dataclass(frozen=True)
class Workflow:
    """`passes`: each a list of alternatives, mostly one. `flows`: how many orders of them it names; the first counts."""

    file: Path
    model: Mapping[str, Any]
    system: Mapping[str, Any]
    passes: tuple[tuple[Pass, ...], ...]
    data: Mapping[str, Mapping[str, Any]]
    evaluator: Mapping[str, Any]
    search: Mapping[str, Any] | None
    flows: int = 1
    apart: bool = False  # parts of the model are built, each by some of the passes


def there(path: Path, kind: str = "is_file") -> bool:
    """Whether it is a file, or a folder with "is_dir"; what no name can be is none."""
    try:
        return getattr(path, kind)()
    except (OSError, ValueError):  # too long; a zero in it
        return False


def wrong(where: str, item: str, given: Any, expected: str) -> TargetError:
    return TargetError(
        f"{where}: {item} = {given!r} is not {expected}.", "The value has the wrong type.", f"Write {expected}."
    )


def table(where: str, item: str, given: Any) -> dict[str, Any]:
    """The value, which must be an object. Raises TargetError."""
    if not isinstance(given, dict):
        raise wrong(where, item, given, "an object")
    return given


def flat(given: Any, nested: str, where: str, item: str) -> dict[str, Any]:
    """The object with the keys of its inner one, as older and newer workflows differ; the outer ones win. Raises TargetError."""
    given = table(where, item, given)
    inner = table(where, f"{item}.{nested}", given.get(nested) or {})
    return inner | {key: value for key, value in given.items() if key != nested}


def entries(where: str, item: str, given: Any) -> list[Any]:
    """The list; empty where nothing is given. Raises TargetError."""
    if given is not None and not isinstance(given, list):
        raise wrong(where, item, given, "a list")
    return given or []


def known(where: str, item: str, given: Iterable[str], names: Iterable[str]) -> None:
    """Raises TargetError for a key that Olive has not."""
    names = set(names)
    for key in given:
        if key not in names:
            place = f"{item}: " if item else ""
            raise TargetError(
                f"{where}: {place}unknown key {key!r}.",
                "A typing error, or a key of another version.",
                nearest(key, names),
            )


def _named(where: str, item: str, given: Any, found: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What the name stands for, or the object itself; empty where nothing is given. Raises TargetError."""
    if given is None:
        return {}
    if not isinstance(given, str):
        return table(where, item, given)
    if given not in found:
        advice = nearest(given, found) if found else f"Add {what} with {given!r}."
        raise TargetError(
            f"{where}: {item} = {given!r} is not the name of any in {what}.", "It is missing there.", advice
        )
    return table(where, f"{what}.{given}", found[given])


def _passes(where: str, given: Mapping[str, Any]) -> tuple[tuple[Pass, ...], ...]:
    out = []
    for name, entry in given.items():
        alternatives = []
        for number, one in enumerate(entry if isinstance(entry, list) else [entry]):
            item = f"passes.{name}" + (f"[{number}]" if isinstance(entry, list) and len(entry) > 1 else "")
            keys = table(where, item, one)
            if not isinstance(keys.get("type"), str):
                raise wrong(where, f"{item}.type", keys.get("type"), "the name of a pass")
            options = {k: v for k, v in flat(keys, "config", where, item).items() if k not in PASS_KEYS}
            alternatives.append(Pass(item, keys["type"], options, keys.get("disable_search") is True))
        if not alternatives:
            raise wrong(where, f"passes.{name}", entry, "a pass, or a list of alternatives")
        out.append(tuple(alternatives))
    return tuple(out)


def _flow(where: str, given: Any, passes: tuple[tuple[Pass, ...], ...]) -> tuple[tuple[Pass, ...], ...]:
    """The passes that the first of older workflows' flows names, in its order. Raises TargetError."""
    if not given:
        return passes
    named = {several[0].item.removeprefix("passes.").split("[")[0]: several for several in passes}
    first = given[0]
    if not isinstance(first, list) or not all(isinstance(name, str) for name in first):
        raise wrong(where, "pass_flows", given, "a list of lists of names")
    if unknown := [name for name in first if name not in named]:
        raise TargetError(
            f"{where}: pass_flows names {unknown[0]!r}, which is not in passes.",
            "A typing error.",
            nearest(unknown[0], named),
        )
    return tuple(named[name] for name in first)


def _data(where: str, given: Any) -> dict[str, dict[str, Any]]:
    """Name -> data config, of a list of those with names or, as in older workflows, of an object. Raises TargetError."""
    if isinstance(given, dict):
        return {name: table(where, f"data_configs.{name}", one) for name, one in given.items()}
    out: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(given):
        name = table(where, f"data_configs[{number}]", one).get("name")
        if not isinstance(name, str) or name in out:
            raise wrong(where, f"data_configs[{number}].name", name, "a name, each once")
        out[name] = one
    return out


def _system(where: str, given: Mapping[str, Any], providers: Any) -> dict[str, Any]:
    """The system, with the execution provider that older workflows name in their engine."""
    system = flat(given, "config", where, "systems") if given else {}
    if providers and not system.get("accelerators"):
        system = {"type": "LocalSystem"} | system | {"accelerators": [{"execution_providers": providers}]}
    return system


def read(file: Path) -> Workflow:
    """The workflow. Raises TargetError for what Olive would not take either: misspelt keys, missing names, wrong types."""
    where, given = paths.shown(file), jsonc.read(file)
    known(where, "", given, {*TABLES, *ENGINE, *QUIET})
    for key, kind in TABLES.items():
        if key in given and not isinstance(given[key], kind):
            raise wrong(where, key, given[key], "an object" if kind is dict else "a list")
    engine = flat(given, "engine", where, "workflow")
    known(where, "engine", given.get("engine") or {}, {*ENGINE, *QUIET, "search_strategy"})
    for key, kinds in ENGINE.items():
        if key in engine and not isinstance(engine[key], kinds):
            raise wrong(where, key, engine[key], "a name or an object")
    if "input_model" not in given:
        raise TargetError(f"{where}: input_model is missing.", "It says which checkpoint is built.", "Add input_model.")
    systems, evaluators = given.get("systems") or {}, given.get("evaluators") or {}
    _named(where, "host", engine.get("host"), systems, "systems")
    system = _named(where, "target", engine.get("target", engine.get("host")), systems, "systems")
    search = engine.get("search_strategy")
    return Workflow(
        file,
        given["input_model"],
        _system(where, system, engine.get("execution_providers")),
        _flow(where, engine.get("pass_flows"), _passes(where, given.get("passes") or {})),
        _data(where, given.get("data_configs") or []),
        _named(where, "evaluator", engine.get("evaluator"), evaluators, "evaluators"),
        table(where, "search_strategy", search) if isinstance(search, dict) else ({} if search else None),
        len(engine.get("pass_flows") or [[]]),
        bool(given.get("builds")),
    )
