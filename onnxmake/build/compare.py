"""`doit compare`: the built targets of one model side by side, on the screen and as build/compare/compare.md, .json and .svg."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxmake.build import pareto, paths, results
from onnxmake.build.commands import Command
from onnxmake.build.files import write_atomically
from onnxmake.build.plan import Plan, named
from onnxmake.build.plot import Point, svg
from onnxmake.build.report import say
from onnxmake.build.rows import Row, rows
from onnxmake.errors import TargetError

COLUMNS = {  # value -> heading, how it is written, and which sign makes less the better
    "bits": ("bits", "{:.2f}", 1),
    "size_mb": ("size MB", "{:.1f}", 1),
    "perplexity": ("perplexity", "{:.3f}", 1),
    "kl": ("KL", "{:#.3g}", 1),
    "top1": ("top-1", "{:.2%}", -1),
    "cosine": ("cosine", "{:.6f}", -1),
    "prefill": ("prefill tok/s", "{:.0f}", -1),
    "decode": ("decode tok/s", "{:.1f}", -1),
    "build": ("build s", "{:.1f}", 1),
    "peak": ("build MB", "{:.0f}", 1),
}
CRITERIA = ("size_mb", "kl", "cosine", "decode")  # of the Pareto front, as far as any target has them
BEST = "*"
FILES = ("compare.md", "compare.json", "compare.svg")


def known(table: Sequence[Row]) -> list[str]:
    """The columns that have a value in any row."""
    return [name for name in COLUMNS if any(name in row.values for row in table)]


def best(table: Sequence[Row], column: str) -> list[str]:
    """Targets with the best value of a column, where there are others to be better than."""
    values = {row.target: COLUMNS[column][2] * row.values[column] for row in table if column in row.values}
    return [name for name, value in values.items() if value == min(values.values())] if len(values) > 1 else []


def fronts(table: Sequence[Row]) -> dict[str, list[str]]:
    """Device -> targets on the Pareto front, of those that have every criterion that any of them has; none for size alone."""
    out = {}
    for device in sorted({row.device for row in table}):
        here = [row for row in table if row.device == device]
        asked = [name for name in CRITERIA if name in known(here)]
        if len(asked) < 2:
            continue
        whole = [row for row in here if all(name in row.values for name in asked)]
        out[device] = pareto.front({row.target: [COLUMNS[c][2] * row.values[c] for c in asked] for row in whole})
    return out


def cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line of text for each row; the best of each column bears a mark. What a second build gave stands last."""
    columns, out, again = known(table), [], any(row.again for row in table)
    winners = {name: best(table, name) for name in columns}
    for row in table:
        shown = [
            COLUMNS[c][1].format(row.values[c]) + (f" {BEST}" if row.target in winners[c] else "")
            if c in row.values
            else ""
            for c in columns
        ]
        out.append([row.target, row.device, row.method, *shown, *([row.again] if again else [])])
    return ["target", "device", "method", *(COLUMNS[c][0] for c in columns), *(["built again"] if again else [])], out


def notes(table: Sequence[Row]) -> list[str]:
    """What the table does not say by itself."""
    criteria = ", ".join(COLUMNS[name][0] for name in CRITERIA if name in known(table))
    out = [f"{BEST} best of its column"] if len(table) > 1 else []
    out += [f"Pareto front ({criteria}) on {d}: {', '.join(names)}" for d, names in fronts(table).items() if names]
    prompts = {row.values["prompt"] for row in table if "prompt" in row.values}
    out += [f"speeds at a prompt of {prompt} tokens" for prompt in prompts]
    hints = [hint for row in table for hint in row.hints]
    return out + ([f"blank: not measured as built, or not like the others: doit {' '.join(hints)}"] if hints else [])


def points(table: Sequence[Row]) -> list[Point]:
    """Those that have a place in the plot."""
    ahead = {name for names in fronts(table).values() for name in names}
    placed = [row for row in table if "kl" in row.values]
    return [
        Point(r.target, r.values["size_mb"], r.values["kl"], r.values.get("decode"), r.target in ahead) for r in placed
    ]


def grouped(plan: Plan, names: Sequence[str]) -> dict[str, list[Row]]:
    """Model -> rows, of the targets that are built from one checkpoint."""
    groups: dict[str, dict[str, Any]] = {}
    for name in names:
        target, steps = plan.targets[name]
        if built := results.delivered(target):
            groups.setdefault(steps[0].checkpoint.id, {})[name] = (target, steps, built)
    return {_model(groups, identity): rows(group) for identity, group in groups.items()}


def _model(groups: Mapping[str, Mapping[str, Any]], identity: str) -> str:
    """The repository's or the folder's name; with more behind it where two checkpoints share that."""
    names = {i: (t := next(iter(g.values()))[0]).source.repo or Path(t.source.path).name for i, g in groups.items()}
    return names[identity] if [*names.values()].count(names[identity]) == 1 else identity


def write(models: Mapping[str, list[Row]]) -> Sequence[str]:
    """The tables as Markdown, everything as JSON, and a plot with a panel for each model that was evaluated on a text. Returns
    the files' names, in build/compare."""
    from tabulate import tabulate

    text, data = [], []
    for model, table in models.items():
        heads, lines = cells(table)
        text += [f"## {model}", tabulate(lines, heads, tablefmt="github", disable_numparse=True), *notes(table)]
        marks = {column: best(table, column) for column in known(table)}
        data.append({"model": model, "rows": [asdict(row) for row in table], "best": marks, "front": fronts(table)})
    panels = [(model, points(table)) for model, table in models.items() if points(table)]
    contents = ["\n\n".join(text) + "\n", json.dumps(data, indent=1), *([svg(panels)] if panels else [])]
    (paths.BUILD / "compare" / FILES[-1]).unlink(missing_ok=True)
    for name, content in zip(FILES, contents):
        write_atomically(paths.BUILD / "compare" / name, content)
    return FILES[: len(contents)]


def compare(plan: Plan, arguments: Sequence[str]) -> None:
    """Print and write the tables of the targets named, or of all that are built. Raises TargetError."""
    from tabulate import tabulate

    names = named(plan, arguments)
    if missing := [n for n in names if arguments and results.delivered(plan.targets[n][0]) is None]:
        raise TargetError(f"{missing[0]} is not built.", "", f"doit build:{missing[0]}")
    models = grouped(plan, names)
    if not models:
        raise TargetError("Nothing is built yet.", "", "doit check:NAME builds a target and evaluates it.")
    for model, table in models.items():
        heads, lines = cells(table)
        align = ["left"] * 3 + ["right"] * (len(heads) - 3)
        say(f"{model}\n{tabulate(lines, heads, disable_numparse=True, colalign=align)}")
        say("\n".join(notes(table)) + "\n")
    say(f"{paths.shown(paths.BUILD / 'compare')}: {', '.join(write(models))}")


class Compare(Command):
    """One table for each model: what its built targets cost and what they keep."""

    doc_purpose = "compare built targets of the same model"
    doc_usage = "[NAME ...]"

    def work(self, plan, params, arguments):
        compare(plan, arguments)
