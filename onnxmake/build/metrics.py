"""Figures of the user's own: functions of scripts that evaluate what is built, each a step behind the last one, made by `doit check`."""

from collections.abc import Sequence

from onnxmake.build import execute, gates, paths, store
from onnxmake.build.files import read_json
from onnxmake.build.plan import Step
from onnxmake.build.target import Target
from onnxmake.errors import StoreError, TargetError


def evaluate(target: Target, steps: Sequence[Step]) -> dict[str, float]:
    """Name -> figure of the built model. Raises OnnxmakeError."""
    out: dict[str, float] = {}
    for use in target.metrics:
        step = Step(use, steps[0].checkpoint, steps[-1])
        execute.make_step(step, [target.name])
        file = store.located(step.record["files"]["figures.json"][0])
        if file is None:
            raise StoreError(
                f"The figures of {use.options.evaluate} are not in the store.", "They were removed.", "Check again."
            )
        for name, value in read_json(file).items():
            if name in gates.METRICS or name in out:
                raise TargetError(
                    f"{paths.shown(target.file)}: [[metric]] {use.options.evaluate} gives a figure {name!r}.",
                    "Another figure has that name.",
                    "Give it a name of its own.",
                )
            out[name] = value
    return out
