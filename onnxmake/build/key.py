"""The key of a step: everything its result depends on, as one JSON document, and its digest."""

import fnmatch
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import closure, paths, runner
from onnxmake.build.closure import code_digests
from onnxmake.build.digest import digest_file
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.plan import Step
from onnxmake.build.schema import plain
from onnxmake.errors import CheckpointError

SCHEMA = 2
PREFIX = "checkpoint/"


def inputs_of(step: Step, checkpoint: Mapping[str, str], made: Mapping[str, list]) -> dict[str, str]:
    """File -> sha256 of what the pass says it reads, of the checkpoint's files and of those that the step before made.

    Raises CheckpointError where one that it needs is missing.
    """
    seen: dict[str, str] = {}
    for pattern in step.use.declaration.reads:
        if pattern.startswith(PREFIX):
            names = _needed(step, pattern, pattern.removeprefix(PREFIX), checkpoint)
            seen |= {PREFIX + name: checkpoint[name] for name in names}
        else:
            seen |= {name: made[name][0] for name in _needed(step, pattern, pattern, made)}
    for name in step.use.made:
        seen |= {PREFIX + found: checkpoint[found] for found in _needed(step, PREFIX + name, name, checkpoint)}
    return seen


def check_inputs(step: Step) -> None:
    """Raise CheckpointError for a file of the checkpoint that a later step will miss: before the first one runs."""
    checkpoint = step.checkpoint.record["files"]
    for pattern in step.use.declaration.reads:
        if pattern.startswith(PREFIX):
            _needed(step, pattern, pattern.removeprefix(PREFIX), checkpoint)


def _needed(step: Step, pattern: str, base: str, names: Iterable[str]) -> Iterable[str]:
    """Those of `names` that `base` matches: "*" any number, "?" at the end one or none, else exactly one. Raises CheckpointError."""
    found = _matches(base.rstrip("?"), names)
    if not found and not base.endswith("?") and "*" not in base:
        raise _missing(pattern, step)
    return found


def _matches(pattern: str, names: Iterable[str]) -> Iterable[str]:
    if "*" not in pattern:
        return (pattern,) if pattern in names else ()
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _missing(pattern: str, step: Step) -> CheckpointError:
    return CheckpointError(
        f"{pattern.removeprefix(PREFIX)} is missing; {step.name} needs it.",
        f"The checkpoint in {step.checkpoint.record['folder']} is not complete.",
        "Fetch or convert the file (a tokenizer.model alone becomes tokenizer.json when Transformers loads and saves it).",
    )


@functools.cache
def _lock_digest(environment: str) -> str:
    return digest_file(paths.CONTAINERS / environment / "requirements.lock")


@functools.cache
def _code(path: Path, chosen: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return code_digests(path, chosen)


def look_again() -> None:
    """Forget what this process has read of code and locks: somebody may be editing while it runs."""
    for kept in (_lock_digest, _code, closure.imports, closure.modules):
        kept.cache_clear()


def known(step: Step) -> dict[str, Any]:
    """What of the key's document is known before anything is fetched or made: all but inputs from the checkpoint, from datasets and from
    other steps."""
    options = vars(step.use.options)
    declared = step.use.declaration
    document = {
        "schema": SCHEMA,
        "pass": step.name,
        "may_skip": step.use.may_skip,
        "options": plain(options),
        "code": _code(declared.path, closure.chosen(options)),
        "inputs": {name: digest_file(file) for name, file in step.use.files.items() if name not in step.use.hub},
        "environment": {"name": declared.environment, "lock": _lock_digest(declared.environment)},
        "python": runner.python_of(declared.environment),
    }
    return document | ({"machine": _machine()} if declared.machine else {})


@functools.cache
def _machine() -> dict[str, Any]:
    """What a measurement depends on."""
    from onnxmake.model.machine import describe

    found = describe("CPU")
    return {name: found[name] for name in ("cpu", "cores")}


def explain(
    step: Step, checkpoint: Mapping[str, str] | None = None, made: Mapping[str, list] | None = None
) -> dict[str, Any]:
    """The key's full document. No time, no path, no key of another step: equal inputs are equal work.

    `checkpoint` (file -> sha256) and `made` (file -> [sha256, size]): what the step could see, if not what the manifests
    before it say. Raises CheckpointError, StoreError.
    """
    if checkpoint is None:
        checkpoint = step.checkpoint.record["files"] | {name: sha for name, (sha, _) in step.tuned.items()}
    if made is None:
        made = step.before.record["files"] if step.before else {}
    found = known(step)
    fetched = {name: digest_file(step.use.files[name]) for name in step.use.hub}
    return found | {"inputs": inputs_of(step, checkpoint, made) | found["inputs"] | fetched}


def short(explained: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its code as one digest."""
    return {**explained, "code": _code_digest(tuple(explained["code"].items()))}


def digest(explained: Mapping[str, Any]) -> str:
    """The key: sha256 of the document, in which the code stands as one digest."""
    return digest_text(canonical_json(short(explained)))


@functools.cache
def _code_digest(code: tuple[tuple[str, str], ...]) -> str:
    return digest_text(canonical_json(dict(code)))


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """Leaves that differ, each as 'path: old -> new'."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for k in sorted({*old, *new})
            for line in difference(old.get(k), new.get(k), f"{path}.{k}" if path else k)
        ]
    if old == new:
        return []
    short = [("absent" if v is None else v[:12] if isinstance(v, str) and len(v) == 64 else str(v)) for v in (old, new)]
    return [f"{path}: {short[0]} -> {short[1]}"]
