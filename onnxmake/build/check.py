"""`doit check:NAME`: the target's passes on a twin of its checkpoint, compared with what Transformers computes; then the built
model, compared with the unquantised one, and the target's gates."""

from collections.abc import Mapping, Sequence
from typing import Any

from onnxmake.build import evaluation, gates, metrics, paths, quality, results, speed, twin
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed, TargetError


def check(target: Target, steps: Sequence[Step]) -> dict[str, float]:
    """Metrics of a target that is built. What was found of the same bytes before is not asked again. Raises CheckFailed, TargetError."""
    built, checkpoint = results.delivered(target), steps[0].checkpoint
    key = quality.twin_key(target, built)
    if (compared := quality.answer(target, "twin", key)) is None:
        compared = {"errors": [*twin.compare(target, checkpoint).items()]}
        quality.note(target, "twin", key, compared)
    say(f"check:{target.name}: right on a twin ({twin.verdict(target, checkpoint, dict(compared['errors']))})")
    if quality.unpackaged(step.name for step in steps) < len(steps):
        key = quality.evaluation_key(target, built)
        if (found := quality.answer(target, "evaluation", key)) is None:
            found = evaluation.evaluate(target, steps)
            quality.note(target, "evaluation", key, found)
        by = f"against the unquantised model, on {found['counted']:,} {found['of']}{_settings(target, found['of'])}"
        if target.metrics and quality.answer(target, "scripts", own := quality.scripts_key(target, built)) is None:
            quality.note(target, "scripts", own, {"metrics": metrics.evaluate(target, steps)})
    else:
        by = f"{steps[-1].name} leaves no model that could be evaluated"
    return _judge(target, built, by)


def _judge(target: Target, built: Mapping[str, Any], by: str) -> dict[str, float]:
    """Metrics: show the table, and `by` what it is; then say what is wrong. Raises CheckFailed for gates that are missed, TargetError for those on nothing."""
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
            "A model that generates text has perplexity, KL divergence and top-1 agreement, any other cosines; a [[metric]] its own.",
            f"Remove {absent[0]}.",
        )
    return known


def _settings(target: Target, of: str) -> str:
    """Which text, and how it was read, if it was one."""
    asked = target.check
    last = f", of which the last {asked.step} count" if asked.step < asked.window else ""
    windows = {"tokens": f", windows of {asked.window}{last}", "lines": ""}
    return f" of {quality.text_name(target)}{windows[of]}" if of in windows else ""
