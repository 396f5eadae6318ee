"""A twin of a target's checkpoint after its passes, compared with what Transformers computes of it."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from onnxmake.build import execute, paths, quality, scripts, store, support, traits
from onnxmake.build.files import read_json
from onnxmake.build.plan import Step, steps_of
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target, Use
from onnxmake.errors import CheckFailed
from onnxmake.model.grouped import Grouped
from onnxmake.model.prequantized import read_logical

# How many times as much as Transformers loses in fp16 or bf16 may be lost. With experts more, as a rounding may choose another
# one of them, which shows in all that follows.
TIMES, TIMES_ROUTED = 2.0, 8.0


def _graph_steps(target: Target, checkpoint: Checkpoint) -> list[Step]:
    """Those that rewrite the graph: what comes behind them lays out files, and changes what has been laid out."""
    largest = traits.block(support.architecture_of(checkpoint))
    kept = [use for use in target.passes if use.declaration.name not in quality.UNTWINNED]
    steps = steps_of(replace(target, passes=tuple(_narrowed(use, largest) for use in kept)), checkpoint)
    return steps[: quality.unpackaged(step.name for step in steps)]


def _narrowed(use: Use, largest: int) -> Use:
    """A twin is narrower than its model: blocks of what its widths are multiples of, where the target's are larger."""
    use, wanted = scripts.without(use), getattr(use.options, "block_size", 0)
    return replace(use, options=replace(use.options, block_size=largest)) if 0 < largest < wanted else use


def _half(target: Target) -> str | None:
    """ "fp16" or "bf16", if that is what the target computes in."""
    casts = [use.options for use in target.passes if use.declaration.name in ("cast", "cast_calibrated")]
    dtype = getattr(casts[-1], "dtype", "fp16") if casts else "fp32"
    return None if dtype == "fp32" else dtype


def _twin(target: Target, checkpoint: Checkpoint) -> Path:
    """A twin of the target's checkpoint, with what Transformers computes of it."""
    folder, half = paths.BUILD / "check" / target.name, _half(target)
    action = {"configs": {"twin": support.architecture_of(checkpoint)}, "part": support.part_of(target)}
    outcome = support.run("sweep", "torch", folder, action | {"dtypes": [half] * bool(half)}, f"check:{target.name}")[
        "twin"
    ]
    if "result" not in outcome:
        raise CheckFailed(
            f"{target.name}: no twin could be compared: {next(iter(outcome.values()))}.",
            "The architecture is not supported, or a twin of it cannot be made.",
            f"Read {paths.shown(folder / 'twin' / 'make.log')}.",
        )
    return folder / "twin"


def _store_alike(target: Target, checkpoint: Checkpoint, twin: Path) -> None:
    """Let a twin hold its weights in groups of integers as the checkpoint does, for the pass that takes them over."""
    source = Path(checkpoint.record["folder"])
    found = [tensor for tensor in read_logical(source).values() if isinstance(tensor, Grouped)]
    if not found or all(use.declaration.name != "repack" for use in target.passes):
        return
    names = sorted({re.sub(r"\d+", "*", tensor.name) for tensor in found})
    settings = read_json(source / "config.json")["quantization_config"]
    action = {"settings": settings, "names": names, "scales": found[0].scales.tensor.dtype}
    support.run("regroup", "cpu", twin, action, f"check:{target.name}")


def _limit(target: Target, checkpoint: Checkpoint) -> tuple[float, str]:
    """The largest error that is rounding alone, and what it is."""
    if half := _half(target):
        routed = any("expert" in key and count for key, count in support.architecture_of(checkpoint).items())
        times = TIMES_ROUTED if routed else TIMES
        return times, f"{times:g} times as much as Transformers loses in {half}"
    return support.TOLERANCE, f"{support.TOLERANCE:.0e}"


def verdict(target: Target, checkpoint: Checkpoint, errors: Mapping[str, float]) -> str:
    """What is said of a twin's errors. Raises CheckFailed where one is above what is right."""
    limit, right = _limit(target, checkpoint)
    form = ".2f" if _half(target) else ".1e"
    shown = ", ".join(f"{name} {error:{form}}" for name, error in errors.items())
    if not max(errors.values()) <= limit:
        raise CheckFailed(
            f"{target.name}: its twin computes something else than Transformers: {shown}; at most {right} is right.",
            "A pass or a device's table changes the computation.",
            "Report the model; do not ship this build.",
        )
    return f"{shown}; at most {right}"


def compare(target: Target, checkpoint: Checkpoint) -> dict[str, float]:
    """Errors of a twin's outputs. Raises CheckFailed where one is above the tolerance."""
    folder = _twin(target, checkpoint)
    _store_alike(target, checkpoint, folder)
    twin = Checkpoint(target.source, folder)
    execute.make_source(twin)
    steps = _graph_steps(target, twin)
    for step in steps:
        execute.make_step(step, [])
    passed = folder / "passed"
    shutil.rmtree(passed, ignore_errors=True)
    store.lay_out(steps[-1].record["files"], passed, link=False)
    graph = passed / "model.onnx"
    action = {"graph": str(graph), "device": target.device}
    errors = support.run("parity", "cpu", folder, action, f"check:{target.name}")
    verdict(target, checkpoint, errors)
    return errors
