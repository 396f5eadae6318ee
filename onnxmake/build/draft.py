"""Decisions as a target file, with their reasons beside what came of them; and as a table."""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmake.build.decide import Decision
from onnxmake.build.show import value
from onnxmake.build.target import Target, read_target

OPTIONS = ("bits", "block_size", "symmetric", "lm_head", "embeddings", "experts")  # questions about the quantiser
BUDGETS = {"average_bits": "average_bits", "weights_mb": "max_size_mb"}  # questions about allocate_bits -> its options
SHARED = ("block_size", "symmetric", "embeddings", "experts")  # what it takes as the quantiser does
PLACES = {"cpu": "ONNX Runtime on CPU", "cuda": "NVIDIA GPUs", "directml": "DirectML on Windows", "webgpu": "WebGPU"}
WEIGHTS = {"mixed": "weights of 4 and 8 bits"}
Made = Mapping[str, Decision]


def _line(key: str, given: Any, because: str = "") -> str:
    return f"{key} = {value(given)}" + (f"  # {because}" if because else "")


def _pass(use: str, decision: Decision | None = None, **options: Any) -> list[str]:
    return ["[[pass]]", _line("use", use, decision.because if decision else ""), *(_line(*o) for o in options.items())]


def _cast(decision: Decision) -> list[str]:
    if decision.choice == "calibrated":
        return _pass("cast_calibrated", decision)
    return _pass("cast", decision, dtype=decision.choice)


def _passes(facts: Mapping[str, Any], made: Made) -> list[list[str]]:
    """The steps in the order in which they run."""
    steps = [_pass("export", made.get("part"), **{n: made[n].choice for n in ("part",) if n in made})]
    if "pool" in made:
        steps.append(_pass("pool", made["pool"], mode=made["pool"].choice, normalize=facts["normalize"]))
    if "cast" in made:
        steps.append(_cast(made["cast"]))
    steps.append(_pass("optimize"))
    if "repack" in made and made["repack"].choice:
        steps.append(_pass("repack", made["repack"]))
    if made["precision"].choice == "mixed":
        budget = [_line(option, made[n].choice, made[n].because) for n, option in BUDGETS.items() if n in made]
        steps.append([*_pass("allocate_bits"), *budget, *(_line(n, made[n].choice) for n in SHARED if n in made)])
    if made["method"].choice != "none":
        options = [_line(name, made[name].choice, made[name].because) for name in OPTIONS if name in made]
        steps.append([*_pass(f"quantize_{made['method'].choice}", made["method"]), *options])
    return [*steps, _pass(f"package_{made['package'].choice}", made["package"])]


def _table(name: str, decision: Decision | None, more: Mapping[str, Decision | None]) -> list[list[str]]:
    """A table whose keys are a decision, and what others add to it; none where nobody says anything."""
    keys = [_line(*item) for item in (decision.choice if decision else {}).items()]
    keys += [_line(key, made.choice, made.because) for key, made in more.items() if made]
    why = f"  # {decision.because}" if decision and decision.choice else ""
    return [[f"[{name}]{why}", *keys]] if keys else []


def description(facts: Mapping[str, Any], made: Made) -> str:
    """What stands first in the file, and in `doit list`."""
    part = f"its part {made['part'].choice}, " if "part" in made and "pool" not in made else ""
    what = "sentence embeddings, " if "pool" in made else part
    place = PLACES.get(facts["device"], facts["device"])
    precision = made["precision"].choice
    return f"{facts['model']}, {what}{WEIGHTS.get(precision, precision + ' weights')}, {place}."


def toml(facts: Mapping[str, Any], source: Mapping[str, str], made: Made, unproven: bool) -> str:
    """A target file."""
    head = [f"# {description(facts, made)}", "# Written by `doit new`: the reasons are those of its decisions."]
    blocks = [[*head, _line("device", facts["device"]), *([_line("unproven", True)] if unproven else [])]]
    blocks.append(["[source]", *(_line(*item) for item in source.items())])
    blocks += _passes(facts, made)
    blocks += _table("check", made.get("check"), {name: made.get(name) for name in ("window", "max_size_mb")})
    blocks += _table("bench", made.get("bench"), {})
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def read(file: Path, text: str) -> Target:
    """The target as `file` will be read once `text` is in it. Raises TargetError."""
    return read_target(file, {file.stem: file}, lambda _: (text, tomllib.loads(text)))


def _said(choice: Any) -> str:
    if isinstance(choice, dict):
        return ", ".join(f"{key} {_said(given)}" for key, given in choice.items()) or "none"
    if isinstance(choice, list):
        return ", ".join(map(str, choice))
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def reasons(made: Made) -> str:
    """What was decided, why, and what else could be chosen: a table."""
    from tabulate import tabulate

    rows = [[d.question, _said(d.choice), d.because, d.instead] for d in made.values()]
    widths = [None, 28, 56, 40] if sys.stdout.isatty() else None  # a program reads one line for each decision
    return tabulate(rows, ["", "decided", "because", "or else"], disable_numparse=True, maxcolwidths=widths)
