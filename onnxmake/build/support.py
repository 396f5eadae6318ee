"""Which architectures are proven right on which device: docs/support.md, as the last sweep over twins found them.

A sweep makes a twin of every causal language model that Transformers has, computes its logits there, builds it for
every device, and runs what the CPU provider can.
"""

import datetime
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import job, paths, runner
from onnxmake.build.files import read_json, write_atomically
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target
from onnxmake.errors import UnsupportedError
from onnxmake.model import architecture

FILE = paths.ROOT / "docs" / "support.md"
DEVICES = ("portable", "cpu", "cuda", "directml", "webgpu", "genai", "int4")
TOLERANCE = 1e-4  # of float32 logits, relative to the largest
HEAD = f"""# Which architectures are right, and where

Written by `doit sweep`. Each row is a twin: the architecture's own configuration with few layers and small widths, and
random weights. It was captured, lowered for each device, and its float32 logits compared with those of Transformers
over a prompt longer than any window and rope boundary, 16 decoded tokens, and (in standard operators) a batch with
padding. A number is the largest difference, relative to the largest logit: right means below {TOLERANCE:.0e}. The graphs for
cuda, directml and webgpu ran on the CPU provider, which has their operators. In the column genai, ONNX Runtime GenAI ran the
cpu graph: right means the same tokens as Transformers' without sampling. In the column int4, the cpu graph's weights have 4
bits in blocks of 16, and it is compared with standard operators over weights that numpy rounded in the same way. Rows with a dot are of models that generate no
text, or of such a part of one: all their outputs are compared, for one input and for a batch with padding.

| architecture | {" | ".join(DEVICES)} | date |
|---|{"---|" * len(DEVICES)}---|
"""


@dataclass(frozen=True)
class Row:
    """An architecture's verdicts by device, "right 1.1e-06" for one, and when they were found."""

    verdicts: tuple[str, ...]
    date: str

    def verdict(self, device: str) -> str:
        return dict(zip(DEVICES, self.verdicts)).get(device, "not tried")


def read(file: Path = FILE) -> dict[str, Row]:
    """Architecture -> row; none where there is no table."""
    return _rows(file.read_text("utf-8")) if file.exists() else {}


@functools.cache  # every target asks, and the text is the same
def _rows(text: str) -> dict[str, Row]:
    lines = [line.strip("|\n ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: Row(tuple(verdicts), date) for name, *verdicts, date in lines[1:]}


def save(rows: Mapping[str, Row], file: Path = FILE) -> None:
    lines = [f"| {' | '.join([name, *row.verdicts, row.date])} |\n" for name, row in sorted(rows.items())]
    write_atomically(file, HEAD + "".join(lines))


def verdict(outcome: Mapping[str, Any]) -> str:
    """One cell: right or WRONG with the error, or why there is none."""
    if "result" in outcome:
        error = max(outcome["result"].values(), key=lambda e: (math.isnan(e), e))
        return f"{'right' if error < TOLERANCE else 'WRONG'} {error:.1e}"
    ((kind, why),) = outcome.items()
    return re.sub(r"\x1b\[\d+m", "", f"{kind}: {why}").replace("|", "/").replace("\n", " ")[:160]


def _is_right(verdict: str) -> bool:
    return verdict.startswith("right")


def is_proven(name: str | None, device: str, rows: Mapping[str, Row]) -> bool:
    return name is not None and name in rows and _is_right(rows[name].verdict(device))


def _columns(target: Target) -> list[str]:
    """What must be right for the target: its device's graph, GenAI where that is to run it, quantised weights where it has any."""
    names = [use.declaration.name for use in target.passes]
    asked = {"genai": "package_genai" in names, "int4": any(name.startswith(("quantize_", "repack")) for name in names)}
    return [target.device, *(column for column, needed in asked.items() if needed)]


def architecture_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys of config.json that shape the graph."""
    return read_json(checkpoint.manifest.parent / "architecture.json")


def part_of(target: Target) -> str:
    """What the target exports of its model."""
    return next((use.options.part for use in target.passes if use.declaration.name == "export"), "model")


def doubt(target: Target, shape: Mapping[str, Any]) -> tuple[str | None, str] | None:
    """The architecture with the keys `shape` of config.json, and why it is not proven for the target; None where it is."""
    name, rows = architecture.row(shape, part_of(target)), read()
    verdict = _verdict(target, name, rows)
    if not _exports(target) or _is_right(verdict):
        return None
    return name, f"docs/support.md says {verdict}" if name in rows else verdict


def _verdict(target: Target, name: str | None, rows: Mapping[str, Row]) -> str:
    """The first verdict of the target's columns that is not right, or that of its device."""
    if name is None or name not in rows:
        return f"docs/support.md has no row for it: no sweep has tried {name}, or Transformers has no such model"
    verdicts = {column: rows[name].verdict(column) for column in _columns(target)}
    wrong = [f"{column}: {v}" for column, v in verdicts.items() if not _is_right(v)]
    return wrong[0] if wrong else verdicts[target.device]


def _exports(target: Target) -> bool:
    """Whether the target takes its graph from Transformers, which is what a sweep proves."""
    return any(use.declaration.name == "export" for use in target.passes)


def proof(target: Target, checkpoint: Checkpoint) -> str | None:
    """What a built target's manifest says of its architecture: the sweep's verdict and date, or that there is none."""
    if not _exports(target):
        return None
    name, rows = architecture.row(architecture_of(checkpoint), part_of(target)), read()
    verdict = _verdict(target, name, rows)
    if not _is_right(verdict):
        return f"unproven: {name} on {target.device}"
    return f"{name} on {target.device}: {verdict}, {rows[str(name)].date}"


def check(target: Target, checkpoint: Checkpoint) -> None:
    """Raises UnsupportedError where the target's architecture is not proven, and the target does not say that it may."""
    if target.unproven or not _exports(target):
        return
    found = doubt(target, architecture_of(checkpoint))
    if found is None:
        return
    name, verdict = found
    by = checkpoint.record["saved_by"]
    hint = f" The checkpoint was saved by Transformers {by}." if by else ""
    raise UnsupportedError(
        f"{paths.shown(target.file)}: {name} is not proven right on {target.device}.",
        f"{verdict}.{hint}",
        f"doit sweep:{name} tries it; unproven = true in the target builds it as it is.",
    )


def run(module: str, environment: str, folder: Path, action: Mapping[str, Any], label: str) -> dict[str, Any]:
    """One of the step side's programs over twins in `folder`; what it prints is shown as it comes."""
    folder.mkdir(parents=True, exist_ok=True)
    program = job.module(f"onnxmake.model.{module}", environment, write=(str(folder),))
    log = paths.BUILD / "logs" / f"{label.replace(':', '-')}.log"
    return runner.run(program, {"folder": str(folder), **action}, log, label, lambda line: say(line.rstrip()))


def sweep(kinds: Sequence[str]) -> dict[str, Row]:
    """Make and compare the twins of `kinds`, or of all architectures; returns their rows."""
    folder = paths.BUILD / "sweep"
    made = run("sweep", "torch", folder, {"kinds": list(kinds)}, "sweep")
    names = [name for name, outcome in made.items() if "result" in outcome]
    compared = run("parity", "cpu", folder, {"names": names, "devices": DEVICES}, "parity")
    today = datetime.date.today().isoformat()
    return {
        name: Row(tuple(verdict(compared[name][d] if name in compared else outcome) for d in DEVICES), today)
        for name, outcome in made.items()
    }


def refresh(kinds: Sequence[str]) -> None:
    """Sweep and write what was found into docs/support.md; rows of others stay."""
    found = sweep(kinds)
    rows = (read() if kinds else {}) | found
    save(rows)
    show(found)


def show(rows: Mapping[str, Row]) -> None:
    """Print the table, and how many are right where."""
    from tabulate import tabulate

    cells = [[name, *row.verdicts, row.date] for name, row in sorted(rows.items())]
    say(tabulate(cells, ["architecture", *DEVICES, "proven on"], maxcolwidths=[None, *[28] * len(DEVICES), None]))
    for device in DEVICES:
        right = sum(is_proven(name, device, rows) for name in rows)
        say(f"{device}: {right} of {len(rows)} right")
