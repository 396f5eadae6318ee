"""The key of a step: everything its result depends on, as one JSON document, and its digest."""

import fnmatch
import functools
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from onnxmake.build import paths
from onnxmake.build.closure import code_digests
from onnxmake.build.digest import canonical_json, digest_file, digest_text
from onnxmake.build.files import read_json
from onnxmake.build.plan import Step
from onnxmake.errors import CheckpointError

SCHEMA = 1
PREFIX = "checkpoint/"


def inputs_of(step: Step) -> dict[str, str]:
    """File -> sha256 of what the step sees: its input's files and the checkpoint's.

    Cut down to what the pass says it reads.

    Raises CheckpointError where a file that the pass needs is missing.
    """
    source = read_json(step.checkpoint.manifest)
    available = {PREFIX + name: sha for name, sha in source["files"].items()}
    if step.before:
        available |= {name: sha for name, (sha, _) in read_json(step.before.manifest)["files"].items()}
    seen: dict[str, str] = {}
    for pattern in step.use.declaration.reads:
        optional = pattern.endswith("?")
        matches = {
            n: s
            for n, s in available.items()
            if fnmatch.fnmatchcase(n, pattern.rstrip("?")) and n.startswith(PREFIX) == pattern.startswith(PREFIX)
        }
        if not matches and not optional and "*" not in pattern:
            raise _missing(pattern, step, source)
        seen |= matches
    return seen


def _missing(pattern: str, step: Step, source: Mapping[str, Any]) -> CheckpointError:
    return CheckpointError(
        f"{pattern.removeprefix(PREFIX)} is missing; {step.name} needs it.",
        f"The checkpoint in {source['folder']} is not complete.",
        "Fetch or convert the file (a tokenizer.model alone becomes tokenizer.json when Transformers loads and saves it).",
    )


def check_inputs(step: Step) -> None:
    """Raise CheckpointError for a file of the checkpoint that a later step will miss: before the first one runs."""
    source = read_json(step.checkpoint.manifest)
    for pattern in step.use.declaration.reads:
        if (
            pattern.startswith(PREFIX)
            and not pattern.endswith("?")
            and "*" not in pattern
            and pattern.removeprefix(PREFIX) not in source["files"]
        ):
            raise _missing(pattern, step, source)


@functools.cache
def _lock_digest(environment: str) -> str:
    return digest_file(paths.CONTAINERS / environment / "requirements.lock")


def explain(step: Step) -> dict[str, Any]:
    """The key's full document. No time, no path, no key of another step: equal inputs are equal work."""
    options = asdict(step.use.options)
    declared = step.use.declaration
    return {
        "schema": SCHEMA,
        "pass": step.name,
        "may_skip": step.use.may_skip,
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
        "code": code_digests(declared.path, options.get("device")),
        "inputs": inputs_of(step),
        "environment": {"name": declared.environment, "lock": _lock_digest(declared.environment)},
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }


def digest(explained: Mapping[str, Any]) -> str:
    return digest_text(canonical_json(explained))


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
