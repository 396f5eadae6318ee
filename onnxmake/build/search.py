"""`doit search:NAME`: build and evaluate variants of a target, and keep those that nothing beats."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import evaluation, execute, gates, pareto, paths, quality, results, show, study
from onnxmake.build.files import canonical_json, digest_text, write_atomically
from onnxmake.build.plan import Step, steps_of
from onnxmake.build.plot import Point as Mark
from onnxmake.build.plot import svg
from onnxmake.build.report import say
from onnxmake.build.space import LARGER, Point
from onnxmake.build.target import Target
from onnxmake.errors import PassError, Refused, TargetError, UnsupportedError

REFUSALS = (PassError, Refused, TargetError, UnsupportedError)  # of options that do not go together: the next are tried


def variant(target: Target, point: Point) -> Target:
    """The target with other options; named by them."""
    passes = list(target.passes)
    for axis in target.search.axes:
        options = dataclasses.replace(passes[axis.place].options, **{axis.option: point[axis.label]})
        passes[axis.place] = dataclasses.replace(passes[axis.place], options=options)
    name = f"{target.name}-{digest_text(canonical_json(dict(point)))[:8]}"
    return dataclasses.replace(target, name=name, passes=tuple(passes))


def measured(target: Target, steps: Sequence[Step]) -> dict[str, float]:
    """All metrics of a target, which is built like any other and leaves nothing in dist/."""
    for step in steps:
        execute.make_step(step, [target.name])
    try:
        execute.deliver(target, list(steps))
        built = results.delivered(target)
        key = quality.evaluation_key(target, built)
        if quality.answer(target, "evaluation", key) is None:
            quality.note(target, "evaluation", key, evaluation.evaluate(target, steps))
        return quality.metrics(target, results.delivered(target))
    finally:
        execute.clean(target)


def search(target: Target, steps: Sequence[Step]) -> None:
    """Try until there are as many trials as the target asks for, then write the best. Raises OnnxmakeError."""
    folder = paths.BUILD / "search" / target.name
    execute.make_source(steps[0].checkpoint)
    if target.check.made:  # by a script: it is the same in all trials
        outputs = [getattr(step.use.options, "output", None) for step in steps]
        for step in steps[: outputs.index(target.check.made) + 1]:
            execute.make_step(step, [target.name])
    quality.text_of(target)  # what cannot be fetched is no trial's fault
    record, wanted = study.opened(target, steps, folder), target.search
    count = min(wanted.settings.trials, wanted.size)
    while (done := len(study.told(record))) < count:
        trial, point = study.asked(record, target)
        one = variant(target, point)
        say(f"search:{target.name}: {done + 1} of {count:g}: {_shown(point)}")
        try:
            found = measured(one, steps_of(one, steps[0].checkpoint))
        except REFUSALS as error:
            say(f"  refused: {error.fact}")
            study.refuse(record, trial)
            continue
        if absent := [name for name in wanted.settings.objectives if name not in found]:
            raise TargetError(
                f"{paths.shown(target.file)}: {absent[0]} under [search] was not computed.",
                "A model that generates text has perplexity, KL divergence and top-1 agreement, any other cosines.",
                f"Choose among {', '.join(sorted(found))}.",
            )
        trial.set_user_attr("metrics", found)
        record.tell(trial, [found[name] for name in wanted.settings.objectives])
        say("  " + ", ".join(f"{name} {_figure(name, found)}" for name in wanted.settings.objectives))
    _report(target, study.told(record), folder)


def _figure(name: str, found: Mapping[str, float]) -> str:
    return gates.METRICS[name][1].format(found[name])


def _shown(point: Point) -> str:
    return ", ".join(f"{label.partition('.')[2]} = {show.value(given)}" for label, given in point.items())


def _report(target: Target, trials: Sequence[Any], folder: Path) -> None:
    """A table of what was tried; those on the front as files that can become targets."""
    from tabulate import tabulate

    names = target.search.settings.objectives
    tried = {variant(target, t.params).name: t for t in trials if "metrics" in t.user_attrs}
    if not tried:
        raise TargetError(
            f"{paths.shown(target.file)}: none of {len(trials)} trials could be built.",
            "The options under [search] do not go together, or the model does not take them.",
            "Change them; what each was refused for stands above.",
        )
    found = {name: trial.user_attrs["metrics"] for name, trial in tried.items()}
    signed = {name: [-m[o] if o in LARGER else m[o] for o in names] for name, m in found.items()}
    front = pareto.front(signed)
    labels = [axis.label for axis in target.search.axes]
    rows = [
        ["*" if name in front else "", name, *(show.value(tried[name].params[label]) for label in labels)]
        + [_figure(o, found[name]) for o in names]
        + [", ".join(gates.missed(target.check, found[name]))]
        for name in sorted(tried, key=signed.__getitem__)
    ]
    heads = ["", "variant", *(label.partition(".")[2] for label in labels), *names, "gates missed"]
    say(tabulate(rows, heads, disable_numparse=True))
    for old in (*folder.glob("*.toml"), *folder.glob("*.svg")):
        old.unlink()
    write_atomically(folder / "search.md", tabulate(rows, heads, tablefmt="github", disable_numparse=True) + "\n")
    if marks := [Mark(name, m["size_mb"], m["kl"], None, name in front) for name, m in found.items() if "kl" in m]:
        write_atomically(folder / "search.svg", svg([(target.name, marks)]))
    for name in front:
        said = ", ".join(f"{o} {_figure(o, found[name])}" for o in names)
        head = f'# {target.name} as doit search found it: {said}.\nlike = "{target.name}"\n\n'
        write_atomically(folder / f"{name}.toml", head + show.passes(variant(target, tried[name].params)) + "\n")
    say(f"* the Pareto front, as targets: {paths.shown(folder)}/*.toml; move one beside {paths.shown(target.file)}")
