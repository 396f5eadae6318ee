"""`doit verify:NAME`: build a target a second time, elsewhere and without the store, and say of each step whether it gives the same.

It always builds, also what it has verified before: what is not the same every time may be the same twice.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import budget, job, paths, reproduced, runner, second, store
from onnxmake.build.files import place, storage_errors
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.reproduced import VERDICTS
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed

MEASURED = ("genai_config.json", "session_options.json")  # hold what a step of a pass with MACHINE has found


def verify(target: Target, steps: Sequence[Step]) -> None:
    """Of a target that is built. Raises CheckFailed where a step gives something else, OnnxmakeError."""
    differing = paths.BUILD / "verify" / target.name
    shutil.rmtree(differing, ignore_errors=True)
    machine, varied = budget.machine(), second.varied()
    with machine.take(machine.memory, 0), second.place() as work:  # it has steps of its own to find room for
        again = second.build(target, steps, work)
        found = []
        for number, (step, other) in enumerate(zip(steps, again, strict=True)):
            folder = differing / f"{number}-{step.name}"
            verdict, detail = _compared(target, step, step.record, other, work, folder)
            runners = [record.get("runner", "unknown") for record in (step.record, other)]
            found.append({"pass": step.name, "verdict": verdict, "detail": detail, "runners": runners})
    reproduced.note(target, found, varied)
    _report(target, found, varied)
    if wrong := [one for one in found if one["verdict"] == VERDICTS[-1]]:
        raise CheckFailed(
            f"{target.name} is not reproducible: {wrong[0]['pass']} gives something else, {wrong[0]['detail']}.",
            "The pass, or what it runs, depends on threads, order, paths or variables.",
            f"Both results are in {paths.shown(differing)}; build:{target.name} itself is as it was.",
        )
    shutil.rmtree(differing, ignore_errors=True)


def _compared(target: Target, step: Step, one: Mapping, other: Mapping, work: Path, folder: Path) -> tuple[str, str]:
    """Verdict on two records of a step, and what it rests on. Results that differ are laid out in `folder`."""
    if one["files"] == other["files"]:
        return VERDICTS[0], ""
    if step.use.declaration.machine and _others(one) == _others(other):
        return VERDICTS[3], "the fastest of what was tried may be another each time"
    store.lay_out(one["files"], folder / "first", link=False)
    with storage_errors("lay out the second build"):
        for name, (sha, _) in other["files"].items():
            objects = work / second.FOLDERS["ONNXMAKE_CACHE"] / "store"
            place(store.object_path(objects, sha), folder / "second" / name, link=False)
    for name in sorted(one["files"].keys() ^ other["files"].keys()):
        return VERDICTS[-1], f"{name} is in the {'first' if name in one['files'] else 'second'} build only"
    names = sorted(name for name, value in one["files"].items() if other["files"][name] != value)
    asked = {"first": str(folder / "first"), "second": str(folder / "second"), "files": names}
    program = job.module("onnxmake.model.sameness", "cpu", [str(folder)])
    log = paths.BUILD / "logs" / f"sameness-{target.name}.log"
    answers = runner.run(program, asked, log, f"verify:{target.name}")
    name = max(names, key=lambda name: VERDICTS.index(answers[name][0]))
    verdict, detail = answers[name]
    return verdict, f"{name}: {detail}" if detail else ", ".join(names)


def _others(record: Mapping) -> dict[str, list]:
    """The files of a step that measures, but those with its answer."""
    return {name: value for name, value in record["files"].items() if name not in MEASURED}


def _report(target: Target, found: Sequence[Mapping[str, Any]], varied: Mapping[str, str]) -> None:
    """One line for each step, then what was not the same around them."""
    say(f"verify:{target.name}: the second build beside the first")
    for one in found:
        first, again = one["runners"]
        say(f"  {one['pass']:<16} {one['verdict']:<17}  {first}, then {again:<8} {one['detail']}".rstrip())
    say(f"varied: {', '.join(varied)}")
