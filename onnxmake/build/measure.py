"""Run built models: generate text, and measure. Never from the store: a number is of this machine and this moment."""

import json
import os
import platform
import sys
from pathlib import Path

from onnxmake.build import history, paths, runner, store
from onnxmake.build.files import read_json, read_record, write_atomically
from onnxmake.build.report import say
from onnxmake.build.target import Target

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

measured_now: list[str] = []


def is_built(target: Target) -> bool:
    return (paths.DIST / target.name / "manifest.json").exists()


def generate(target: Target, prompt: str, tokens: int) -> None:
    """Continue `prompt` greedily or as the model's own settings sample, printing text as it comes."""
    folder = paths.DIST / target.name
    action = {"folder": str(folder), "prompt": prompt, "tokens": tokens}

    def echo(line: str) -> None:
        sys.stdout.write(json.loads(line)["text"] if line.startswith('{"text"') else "")
        sys.stdout.flush()

    runner.run(
        "onnxmake.model.generate",
        action,
        "cpu",
        paths.BUILD / "logs" / f"try-{target.name}.log",
        f"try:{target.name}",
        echo=echo,
    )
    print(flush=True)


def machine() -> dict:
    """What a number depends on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        cpu = next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            cpu,
        )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(terse=True),
    }


def bench(target: Target) -> None:
    """Measure a built target in a fresh process; writes build/bench/<target>.json."""
    folder = paths.DIST / target.name
    record = read_json(folder / "manifest.json")
    action = {
        "folder": str(folder),
        "prompt_tokens": list(target.bench.prompt_tokens),
        "new_tokens": target.bench.new_tokens,
        "repeats": target.bench.repeats,
    }
    measured = runner.run(
        "onnxmake.model.bench",
        action,
        "cpu",
        paths.BUILD / "logs" / f"bench-{target.name}.log",
        f"bench:{target.name}",
    )
    size = sum(size for _, size in record["files"].values())
    result = {
        "target": target.name,
        "machine": machine(),
        "settings": action | {"folder": None},
        "size": size,
        "source_size": _source_size(record),
        "files": record["files"],
        **measured,
    }
    write_atomically(paths.BUILD / "bench" / f"{target.name}.json", json.dumps(result, indent=1))
    measured_now.append(target.name)


def _source_size(record: dict) -> int | None:
    """Bytes of the checkpoint's weights, if it is still where the build read it."""
    steps = history.chain(record["target"])
    last = store.document(steps[-1][1]["key"]) if steps else None
    manifests = [read_record(p) for p in (paths.BUILD / "sources").glob("*/manifest.json")]
    wanted = {n: s for n, s in last["inputs"].items() if n.endswith(".safetensors")} if last else {}
    for manifest in filter(None, manifests):
        if wanted and all(manifest["files"].get(n.removeprefix("checkpoint/")) == s for n, s in wanted.items()):
            return sum(os.path.getsize(Path(manifest["folder"]) / n.removeprefix("checkpoint/")) for n in wanted)
    return None


def show() -> None:
    """The table of what this run measured, on the screen and as build/bench/bench.md. Once, though every task asks."""
    names, measured_now[:] = measured_now[:], []
    from tabulate import tabulate

    results = [read_json(paths.BUILD / "bench" / f"{name}.json") for name in names]
    rows = [
        [
            r["target"],
            run["prompt_tokens"],
            f"{r['size'] / 1e6:.1f}",
            f"{r['size'] / r['source_size']:.0%}" if r["source_size"] else "?",
            f"{r['load_s']:.2f}",
            f"{run['first_token_s']['p50'] * 1e3:.0f}",
            f"{run['prefill']['p50']:.0f}",
            f"{run['decode']['p50']:.1f}",
            f"{run['decode']['p90']:.1f}",
            f"{r['peak_bytes'] / 1e6:.0f}",
        ]
        for r in results
        for run in r["runs"]
    ]
    if rows:
        say(tabulate(rows, COLUMNS.values(), disable_numparse=True, colalign=["left"] + ["right"] * (len(COLUMNS) - 1)))
        m = results[0]["machine"]
        note = f"{m['cpu']}, {m['cores']} cores, {m['system']}; p50 of {results[0]['settings']['repeats']} after one warm-up; p90: nine of ten runs decode at least as fast"
        say(note)
        write_atomically(
            paths.BUILD / "bench" / "bench.md",
            tabulate(rows, COLUMNS.values(), tablefmt="github", disable_numparse=True) + f"\n\n{note}\n",
        )
