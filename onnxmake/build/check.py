"""`doit check:NAME`: the target's passes on a twin of its checkpoint, compared with what Transformers computes; then the built
model, compared with the unquantised one, and the target's gates."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import evaluation, execute, gates, paths, quality, results, speed, store, support
from onnxmake.build.plan import Step, steps_of
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed, TargetError

TOLERANCE = {
    "fp32": support.TOLERANCE,
    "fp16": 2e-2,
    "bf16": 2e-2,
}  # relative to the largest logit, by the type of what is computed


def _graph_steps(target: Target, checkpoint: Checkpoint) -> list[Step]:
    """Those that rewrite the graph: what comes behind them lays out files."""
    steps = steps_of(target, checkpoint)
    return [step for step in steps if not step.name.startswith("package_")]


def _twin(target: Target, checkpoint: Checkpoint) -> Path:
    """A twin of the target's checkpoint, with what Transformers computes of it."""
    folder = paths.BUILD / "check" / target.name
    action = {"configs": {"twin": support.architecture_of(checkpoint)}, "part": support.part_of(target)}
    outcome = support.run("sweep", "torch", folder, action, f"check:{target.name}")["twin"]
    if "result" not in outcome:
        raise CheckFailed(
            f"{target.name}: no twin could be compared: {next(iter(outcome.values()))}.",
            "The architecture is not supported, or a twin of it cannot be made.",
            f"Read {paths.shown(folder / 'twin' / 'make.log')}.",
        )
    return folder / "twin"


def _limit(target: Target) -> float:
    """The largest error that is rounding alone."""
    casts = [use.options.dtype for use in target.passes if use.declaration.name == "cast"]
    return TOLERANCE[casts[-1] if casts else "fp32"]


def _shown(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


def compare_twin(target: Target, checkpoint: Checkpoint) -> dict[str, float]:
    """Errors of a twin's outputs. Raises CheckFailed where one is above the tolerance."""
    folder = _twin(target, checkpoint)
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
    limit = _limit(target)
    if not max(errors.values()) <= limit:
        raise CheckFailed(
            f"{target.name}: its twin computes something else than Transformers: {_shown(errors)}; at most {limit:.0e} is right.",
            "A pass or a device's table changes the computation.",
            "Report the model; do not ship this build.",
        )
    return errors


def check(target: Target, steps: Sequence[Step]) -> None:
    """Of a target that is built. What was found of the same bytes before is not asked again. Raises CheckFailed, TargetError."""
    built = results.delivered(target)
    key = quality.twin_key(target, built)
    if (twin := quality.answer(target, "twin", key)) is None:
        twin = {"errors": [*compare_twin(target, steps[0].checkpoint).items()]}
        quality.note(target, "twin", key, twin)
    say(f"check:{target.name}: right on a twin ({_shown(dict(twin['errors']))}; at most {_limit(target):.0e})")
    if steps[-1].name.startswith("package_"):
        key = quality.evaluation_key(target, built)
        if (found := quality.answer(target, "evaluation", key)) is None:
            found = evaluation.evaluate(target, steps)
            quality.note(target, "evaluation", key, found)
        by = f"against the unquantised model, on {found['counted']:,} {found['of']}{_settings(target, found['of'])}"
    else:
        by = f"{steps[-1].name} leaves no model that could be evaluated"
    _judge(target, built, by)


def _judge(target: Target, built: Mapping[str, Any], by: str) -> None:
    """Show the table, and `by` what it is; then say what is wrong. Raises CheckFailed for gates that are missed, TargetError for those on nothing."""
    wanted, known = target.check, quality.metrics(target, built)
    unmeasured = None
    if wanted.than:
        try:
            known["decode"] = speed.ratio(target, wanted.than)
        except CheckFailed as error:
            unmeasured = error
    say(gates.table(wanted, known))
    say(by)
    if missed := gates.missed(wanted, known):
        raise CheckFailed(
            f"{target.name} misses {len(missed)} of {len(wanted.gates)} gates: {', '.join(missed)}.",
            "Its passes lose more than [check] allows, as the table above shows.",
            "Choose settings that lose less, or another limit.",
        )
    if unmeasured:
        raise unmeasured
    if absent := gates.absent(wanted, known):
        raise TargetError(
            f"{paths.shown(target.file)}: {absent[0]} under [check] limits what was not computed.",
            "A model that generates text has perplexity, KL divergence and top-1 agreement, any other cosines.",
            f"Remove {absent[0]}.",
        )


def _settings(target: Target, of: str) -> str:
    """Which text, and how it was read, if it was one."""
    asked = target.check
    last = f", of which the last {asked.step} count" if asked.step < asked.window else ""
    windows = {"tokens": f", windows of {asked.window}{last}", "lines": ""}
    return f" of {paths.shown(quality.text_of(target))}{windows[of]}" if of in windows else ""
