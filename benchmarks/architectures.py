"""Architectures that onnxmake, the GenAI model builder and mobius build: twins of each, run and compared with Transformers.

    python -m venv rival && rival/bin/pip install mobius-onnx==0.1.0 onnxruntime==1.31.1 transformers==5.23.0 torch==2.13.0
    python benchmarks/architectures.py --mobius rival/bin/python [--builder PYTHON] [--work FOLDER] [--ops] [NAME ...]

Run it in the development environment (`pip install -e .[test]`), which has the model builder, too. Every tool builds every twin in
float32 by one command, whose seconds include imports. Writes build/bench/architectures.md and .json.
"""

import argparse
import functools
import json
import platform
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from rivals import PEERS, SECONDS, TOLERANCE, build, outcome, tools  # noqa: E402
from tabulate import tabulate  # noqa: E402
from twins import NAMED, TWINS, config_of  # noqa: E402

from onnxmake.build import paths  # noqa: E402
from onnxmake.model import reference  # noqa: E402
from onnxmake.model.isolated import isolated  # noqa: E402
from onnxmake.model.sweep import default_config  # noqa: E402

BOUNDARIES = {  # where twins have less than any checkpoint, and the model builder takes it for another kind of scaling or stops
    "phi3": ("original_max_position_embeddings", "max_position_embeddings"),
    "gpt_oss": ("rope_parameters", "max_position_embeddings"),
}
VERDICTS = ("right", "wrong", "failed", "unsupported")
Results = dict[str, dict[str, dict[str, Any]]]  # architecture -> tool -> outcome
table = functools.partial(tabulate, tablefmt="github", disable_numparse=True)


def make(name: str, folder: Path) -> None:
    """The twin, the tokenizer that the model builder insists on, and what Transformers computes."""
    kept = {key: default_config(name)[key] for key in BOUNDARIES.get(name, ())}
    reference.make_checkpoint(config_of(name) | kept, folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(paths.TARGETS / "tiny" / file, folder / file)
    np.savez(folder / "expected.npz", **reference.expected(folder))  # last: says that the twin is whole


def made(name: str, folder: Path) -> Path:
    """The twin's folder, made unless it is there."""
    twin = folder / "twin"
    if not (twin / "expected.npz").exists():
        twin.mkdir(parents=True, exist_ok=True)
        told = isolated(make, name, twin, log=str(folder / "make.log"), seconds=SECONDS)
        if "result" not in told:
            sys.exit(f"{name}: {told}")
    return twin


def per_layer(found: dict[str, Any]) -> float:
    return sum(found["ops"].values())


def cell(found: dict[str, Any]) -> str:
    if "error" not in found:
        return found["verdict"]
    return (
        f"{found['verdict']} {found['error']:.0e}, {found['seconds']:.1f} s, {found['nodes']} ({per_layer(found):.1f})"
    )


def total(results: Results, tool: str) -> list[Any]:
    """The row of a tool: its verdicts, seconds, and nodes where both it and ours are right."""
    outcomes = [found[tool] for found in results.values()]
    verdicts = [found["verdict"] for found in outcomes]
    padded = [found["errors"]["padded"] for found in outcomes if found["verdict"] == "right"]
    seconds = [found["seconds"] for found in outcomes if "error" in found]
    peer = PEERS.get(tool, tool)
    both = [found for found in results.values() if found[tool]["verdict"] == found[peer]["verdict"] == "right"]
    nodes, least = (sum(per_layer(found[name]) for found in both) for name in (tool, peer))
    return [
        tool,
        *(verdicts.count(verdict) for verdict in VERDICTS),
        sum(not isinstance(error, str) and error < TOLERANCE for error in padded),
        f"{statistics.median(seconds):.1f}" if seconds else "",
        f"{nodes / least:.2f} of {len(both)}" if both else "",
    ]


def reasons(results: Results) -> dict[tuple[str, str], list[str]]:
    """(architecture, what was said) -> tools that said so."""
    said: dict[tuple[str, str], list[str]] = {}
    for kind, found in results.items():
        for name in found:
            if "why" in found[name]:
                said.setdefault((kind, found[name]["why"]), []).append(name)
    return said


def report(results: Results, names: list[str], ops: bool) -> str:
    parts = [
        "Largest error relative to the largest logit; seconds of the whole command; nodes of the graph, and of a layer.",
        table([[kind, *(cell(found[name]) for name in names)] for kind, found in results.items()], ["", *names]),
        "Padded: right also for a batch that is padded on the left. Seconds: the median. Nodes: of a layer, beside ours where both "
        "are right; portable beside portable.",
        table([total(results, name) for name in names], ["", *VERDICTS, "padded", "seconds", "nodes, ours 1"]),
        "\n".join(f"- {kind}, {', '.join(who)}: {why}" for (kind, why), who in reasons(results).items()),
    ]
    for kind, found in results.items() if ops else ():
        built = [name for name in names if "ops" in found[name] and "portable" not in name]
        every = sorted({op for name in built for op in found[name]["ops"]})
        rows = [[op, *(f"{found[name]['ops'].get(op, 0):.1f}" for name in built)] for op in every]
        parts += [f"Nodes of a layer of {kind}:", table(rows, ["", *built])]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TWINS)}; without, the named ones")
    parser.add_argument("--builder", default=sys.executable, metavar="PYTHON", help="has the GenAI model builder")
    parser.add_argument("--mobius", metavar="PYTHON", help="has mobius-onnx; without, it is left out")
    parser.add_argument("--work", type=Path, default=paths.BUILD / "bench" / "architectures", metavar="FOLDER")
    parser.add_argument("--ops", action="store_true", help="also the operators of a layer, for the CPU")
    options = parser.parse_args()
    kinds, commands, work = options.names or NAMED, tools(options.builder, options.mobius), options.work.resolve()
    for name, command in commands.items():  # warms caches of files and compiled code, and is not counted
        build(command(made(kinds[0], work / kinds[0]), work / kinds[0] / name), work / kinds[0] / name)
    results: Results = {}
    out = paths.BUILD / "bench"
    out.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        twin, results[kind] = made(kind, work / kind), {}
        for name, command in commands.items():
            place = work / kind / name
            results[kind][name] = outcome(command(twin, place), twin, place)
        print(f"{len(results):3} of {len(kinds)}: {kind}: {'; '.join(map(cell, results[kind].values()))}", flush=True)
        said = {"machine": platform.platform(), "tolerance": TOLERANCE, "results": results}
        (out / "architectures.json").write_text(json.dumps(said, indent=1))
    (out / "architectures.md").write_text(text := report(results, [*commands], options.ops))
    print(text)


if __name__ == "__main__":
    main()
