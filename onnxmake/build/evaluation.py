"""Evaluate a built target against its unquantised model, in the cpu environment."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import budget, job, locks, paths, quality, runner, source, store
from onnxmake.build.files import storage_errors
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.target import Target


def evaluate(target: Target, steps: Sequence[Step]) -> dict[str, Any]:
    """{"metrics", "counted", "of"} of what is in dist/<target>. Raises OnnxmakeError."""
    model, text, label = paths.DIST / target.name, quality.text_of(target), f"check:{target.name}"
    described = steps[0].checkpoint.record
    checkpoint = Path(described["folder"])
    originals = [str(checkpoint / name) for name in described["files"] if name not in source.DERIVED]
    graph = steps[quality.semantic(step.name for step in steps) - 1].record["files"]["model.onnx"]
    with storage_errors("lay out the unquantised graph"):
        work = Path(tempfile.mkdtemp(dir=locks.scratch(paths.BUILD)))
        view = work / "checkpoint"  # with what the target's own passes have tuned
    try:
        store.lay_out({"captured.onnx": graph}, work, link=False)
        store.lay_out(steps[-1].tuned, view, link=True)
        for original in originals:
            os.symlink(original, view / Path(original).name)
        action = {
            "model": str(model),
            "graph": str(work / "captured.onnx"),
            "checkpoint": str(view),
            "text": str(text),
            "template": target.check.text_template,
            "window": target.check.window,
            "stride": target.check.step,
            "max_tokens": target.check.max_tokens,
            "whole": target.check.text is None,
        }
        program = job.module("onnxmake.model.evaluate", "cpu", [str(model), *originals, str(text), str(work)])
        machine, log = budget.machine(), paths.BUILD / "logs" / f"evaluate-{target.name}.log"
        with machine.take(machine.memory, 0):  # a whole model: alone
            return runner.run(program, action, log, label, lambda line: say(line.rstrip()))
    finally:
        shutil.rmtree(work, ignore_errors=True)
