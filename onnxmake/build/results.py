"""What was measured of built targets, here or on another machine, and what has yet to be."""

import contextlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import history, measurements, paths, store
from onnxmake.build.device import device
from onnxmake.build.files import canonical_json, read_json, read_record, write_atomically
from onnxmake.build.report import say
from onnxmake.build.target import Target
from onnxmake.errors import StoreError

COLUMNS = {
    "target": "target",
    "prompt": "prompt",
    "size": "size MB",
    "ratio": "of source",
    "load": "load s",
    "first": "first token ms",
    "prefill": "prefill tok/s",
    "decode": "decode tok/s",
    "slow": "p90",
    "memory": "peak MB",
}


def _path(target: str) -> Path:
    return paths.BUILD / "bench" / f"{target}.json"


def delivered(target: Target) -> dict[str, Any] | None:
    """What dist/<target>/manifest.json says, or None where it is not built, or damaged: a build makes it again."""
    try:
        return read_json(paths.DIST / target.name / "manifest.json")
    except (OSError, ValueError):
        return None


def save(result: Mapping[str, Any]) -> None:
    """Keep a result, as the last one and in the target's history."""
    measurements.note_bench(result)
    write_atomically(_path(result["target"]), json.dumps(result, indent=1))


def of(target: Target, files: Mapping[str, list]) -> dict[str, Any] | None:
    """The result that was measured of exactly these files on the target's device."""
    path = _path(target.name)
    result = read(path) if path.exists() else None
    if result and result["files"] == files and result["device"] == device(target.device).provider:
        return result
    return None


def status(target: Target, files: Mapping[str, list]) -> str:
    result = of(target, files)
    return f"run on {_where(result['machine'])}" if result else f"built, not run on {target.device}"


def note(target: Target) -> None:
    """Have dist/<target>/manifest.json say what was measured of the files that it names, also where the target was edited since."""
    amend(target, status=status(target, delivered(target)["files"]))


def amend(target: Target, **found: Any) -> None:
    """Have dist/<target>/manifest.json say what was found out of its files."""
    write_atomically(paths.DIST / target.name / "manifest.json", canonical_json(delivered(target) | found))


def _where(machine: Mapping[str, Any]) -> str:
    return machine.get("gpu") or machine["cpu"]


def read(path: Path) -> dict[str, Any] | None:
    """A result with all that the table shows, or None: it may come from another machine, and by hand."""
    try:
        result = read_json(path)
        shown = [[run["prompt_tokens"], *figures(result, run)] for run in result["runs"]]
        named = [result["target"], result["device"], result["files"], described(result)]
        return result if shown and all(named) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def merge(target: Target, path: Path) -> None:
    """Take over a result that came back from another machine. Raises StoreError if it is none of what is built here."""
    result, built = read(path), delivered(target)
    wanted = device(target.device).provider
    if result is None:
        raise StoreError(f"{paths.shown(path)} is no result.", "It is damaged.", "Run the bundle again.")
    if result["target"] != target.name or built is None or result["files"] != built["files"]:
        raise StoreError(
            f"{paths.shown(path)} is of another build than dist/{target.name}.",
            "The target was built again after it was bundled.",
            f"Bundle it again: doit bundle:{target.name}.",
        )
    if result["device"] != wanted:
        raise StoreError(
            f"{paths.shown(path)} was measured on {result['device']}, not on {wanted}.",
            "The bundle was run with --device.",
            "Run it without.",
        )
    save(result)


def table(targets: Collection[Target], measured: Collection[str]) -> None:
    """On the screen and as build/bench/bench.md: what was measured, and of the other targets what is built and not run.

    `measured`: names of those with a result to show.
    """
    from tabulate import tabulate

    rows, machines, decodes = [], set(), False
    for target in targets:
        built = delivered(target)
        if built is None:
            continue
        total = sum(size for _, size in built["files"].values())
        size = f"{total / 1e6:.1f}"
        result = of(target, built["files"]) if target.name in measured else None
        if result is None:
            rows.append([target.name, status(target, built["files"]), size])
        else:
            source = _source_size(built)
            ratio = f"{total / source:.0%}" if source else "?"
            rows += [[target.name, run["prompt_tokens"], size, ratio, *figures(result, run)] for run in result["runs"]]
            machines.add(described(result))
            decodes |= any(run["decode"] for run in result["runs"])
    if not rows:
        return
    speed = "; p90: nine of ten runs decode at least as fast" if decodes else ""
    notes = sorted(machines) + [f"p50 after one warm-up{speed}"] * bool(machines)
    align = ["left"] + ["right"] * (len(COLUMNS) - 1)
    say(tabulate(rows, COLUMNS.values(), disable_numparse=True, colalign=align))
    say("\n".join(notes))
    text = tabulate(rows, COLUMNS.values(), tablefmt="github", disable_numparse=True)
    write_atomically(paths.BUILD / "bench" / "bench.md", "\n\n".join([text, *notes]) + "\n")


def described(result: Mapping[str, Any]) -> str:
    """Where and how often it was measured."""
    return f"{machine(result['machine'])}; {result['settings']['repeats']} runs"


def machine(described: Mapping[str, Any]) -> str:
    """A machine as a person reads it."""
    gpu = f"{described['gpu']}; " if "gpu" in described else ""
    return f"{gpu}{described['cpu']}, {described['cores']} cores, {described['system']}"


def figures(result: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Of one of its runs, as the table has them."""
    return [
        f"{result['load_s']:.2f}",
        f"{run['first_token_s']['p50'] * 1e3:.0f}",
        f"{run['prefill']['p50']:.0f}",
        *([f"{run['decode'][p]:.1f}" for p in ("p50", "p90")] if run["decode"] else ["", ""]),
        f"{result['peak_bytes'] / 1e6:.0f}",
    ]


def _source_size(record: Mapping[str, Any]) -> int | None:
    """Bytes of the checkpoint's weights, if it is still where the build read it."""
    steps = history.chain(record["target"])
    read = {n: s for _, step in steps for n, s in (store.document(step["key"]) or {"inputs": {}})["inputs"].items()}
    manifests = [read_record(p) for p in (paths.BUILD / "sources").glob("*/manifest.json")]
    wanted = {n: s for n, s in read.items() if n.startswith("checkpoint/") and n.endswith(".safetensors")}
    for manifest in filter(None, manifests):
        if wanted and all(manifest["files"].get(n.removeprefix("checkpoint/")) == s for n, s in wanted.items()):
            with contextlib.suppress(OSError):
                return sum((Path(manifest["folder"]) / n.removeprefix("checkpoint/")).stat().st_size for n in wanted)
    return None
