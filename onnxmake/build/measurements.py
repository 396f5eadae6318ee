"""What was measured of a target, build after build: build/history/<target>.jsonl, a line for each bench and each evaluation."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnxmake.build import paths, store
from onnxmake.build.files import canonical_json, digest_text, write_atomically

LIMIT = 1000  # lines of a target; the oldest go
SPEEDS = ("first_token_s", "prefill", "decode")
MACHINE = ("cpu", "cores", "system")


@dataclass(frozen=True)
class Measured:
    """A bench, which has `machine` and `runs`, or an evaluation, which has `metrics` and `on`. Speeds are medians; figures of
    different machines, or on different texts, do not compare."""

    files: str  # digest of names, digests and sizes of what was measured
    size: int  # bytes of all files
    when: str = ""  # UTC, 2026-01-31T12:00:00Z; of a result from another machine, when it came here
    machine: dict[str, Any] = field(default_factory=dict)  # cpu, cores, system, and gpu where it counted
    runs: list[dict[str, float | None]] = field(default_factory=list)  # prompt_tokens, first_token_s, prefill, decode
    load_s: float | None = None
    peak_bytes: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # as gates name them
    on: dict[str, Any] = field(default_factory=dict)  # text and settings

    def at(self, prompt: int) -> Mapping[str, float | None]:
        """The run at a prompt's length; empty where there is none."""
        return next((run for run in self.runs if run["prompt_tokens"] == prompt), {})


def digest(files: Mapping[str, Any]) -> str:
    """One name for a set of files, as a manifest lists them."""
    return digest_text(canonical_json(files))


def past(target: str) -> list[Measured]:
    """All that is known, oldest first; lines that are damaged are left out."""
    try:
        lines = _path(target).read_text("utf-8", "replace").split("\n")
    except OSError:
        return []
    return [found for line in lines if (found := _read(line))]


def note_bench(result: Mapping[str, Any]) -> None:
    """Keep what a bench found. Raises StoreError."""
    runs = [
        {"prompt_tokens": run["prompt_tokens"]} | {name: (run[name] or {}).get("p50") for name in SPEEDS}
        for run in result["runs"]
    ]
    more = {name: result[name] for name in ("machine", "load_s", "peak_bytes")}
    _note(result["target"], Measured(digest(result["files"]), _size(result["files"]), runs=runs, **more))


def note_evaluation(target: str, key: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Keep what an evaluation found. Raises StoreError."""
    on = {name: key[name] for name in ("text", "settings")}
    _note(target, Measured(digest(key["files"]), _size(key["files"]), metrics=dict(found["metrics"]), on=on))


def _path(target: str) -> Path:
    return paths.BUILD / "history" / f"{target}.jsonl"


def _size(files: Mapping[str, Any]) -> int:
    return sum(size for _, size in files.values())


def _note(target: str, found: Measured) -> None:
    """Unless it is known: a bundle's result is taken over each time that it is looked at."""
    with store.locked(f"history-{target}"):
        known = past(target)
        if found not in [replace(one, when="") for one in known]:
            kept = [*known, replace(found, when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))][-LIMIT:]
            write_atomically(_path(target), "".join(f"{canonical_json(asdict(one))}\n" for one in kept))


def _numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values if value is not None)


def _read(line: str) -> Measured | None:
    """A line with the shape that it was written in, or None."""
    try:
        found = Measured(**json.loads(line))
        figures = [found.size, found.load_s, found.peak_bytes, *found.metrics.values()]
        named = all({"prompt_tokens", *SPEEDS} <= run.keys() for run in found.runs)
        runs = named and all(_numbers(run.values()) for run in found.runs)
        machine = not found.machine or all(name in found.machine for name in MACHINE)
        texts = isinstance(found.files, str) and isinstance(found.when, str) and isinstance(found.on, dict)
        return found if runs and machine and texts and _numbers(figures) else None
    except (ValueError, TypeError, AttributeError):
        return None
