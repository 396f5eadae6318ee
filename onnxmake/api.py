"""onnxmake from Python: what `doit build:NAME`, `plan`, `check` and `bench` do, with results as dataclasses.

A target is named, a file, or a Target that was read and changed. Nothing is printed: `say` hears each line that doit would print.
Errors are OnnxmakeError. ONNXMAKE_OUTPUT and ONNXMAKE_CACHE count as they are when onnxmake is first used.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from onnxmake.build import check as checks
from onnxmake.build import execute, key, like, measure, paths, results, settings, source, stages, tasks, verdict
from onnxmake.build import plan as plans
from onnxmake.build import runner as runners
from onnxmake.build.answers import Built, BuiltStep, Checked, File, Measured, Planned, Run, Spread
from onnxmake.build.gates import Check
from onnxmake.build.named import staged, without
from onnxmake.build.naming import check_name
from onnxmake.build.report import heard_by
from onnxmake.build.schema import nearest, parse, plain
from onnxmake.build.target import Bench, Release, Source, Target, Use, files_of, read_target
from onnxmake.build.verdict import Verdict
from onnxmake.errors import OnnxmakeError, TargetError

__all__ = [
    "Bench",
    "Built",
    "BuiltStep",
    "Check",
    "Checked",
    "File",
    "Measured",
    "OnnxmakeError",
    "Planned",
    "Release",
    "Run",
    "Source",
    "Spread",
    "Target",
    "Use",
    "Verdict",
    "bench",
    "build",
    "check",
    "load_target",
    "plan",
    "with_options",
]
Named = Target | str | os.PathLike[str]
Runner = Literal["auto", "venv", "docker"]
Say = Callable[[str], Any]


def load_target(named: str | os.PathLike[str]) -> Target:
    """Read a target: a path that ends with .toml, anywhere, or a name from targets/ and ONNXMAKE_TARGETS. Raises TargetError."""
    known, file = files_of(paths.target_folders()), Path(named)
    if file.suffix != ".toml":
        if str(named) not in known:
            cause = "A typing error, or its file is neither in targets/ nor in a folder of ONNXMAKE_TARGETS."
            raise TargetError(f"No target is named {str(named)!r}.", cause, nearest(str(named), known))
        return read_target(known[str(named)], known)
    if not file.is_file():
        raise TargetError(f"{file} does not exist.", "A typing error, or another working folder.", "Correct the path.")
    file = file.resolve()
    return read_target(file, known | like.inside(file.parent))


def with_options(target: Target, name: str, **options: Any) -> Target:
    """The target with other options of its pass `name`, or of all that have this name; files are relative to the target's. Raises
    TargetError."""
    if name not in (names := [use.declaration.name for use in target.passes]):
        raise TargetError(f"{target.name} has no pass {name!r}.", "A typing error.", nearest(name, names))
    where = f"{target.name}: {name}"
    files = [option for option in options if option in like.FILES]

    def changed(use: Use) -> Use:
        parsed = parse(type(use.options), plain(vars(use.options)) | plain(options), where)
        seen, more = staged(parsed, target.file.parent, where, files)
        kept = without(use, files)
        both = {
            "files": kept["files"] | more["files"],
            "hub": kept["hub"] | more["hub"],
            "made": kept["made"] + more["made"],
        }
        return dataclasses.replace(use, options=seen, **both)

    found = [changed(use) if use.declaration.name == name else use for use in target.passes]
    return dataclasses.replace(target, passes=tuple(found))


def plan(target: Named, *, runner: Runner | None = None, source: str | os.PathLike[str] | None = None) -> Planned:
    """What `build` would do, step by step, and why, without doing it. Raises OnnxmakeError."""
    with _asked(runner, None):
        read, steps = _steps(target, source)
        told = verdict.judge(plans.Plan({read.name: (read, steps)}, {}), [read.name])
        return Planned(read.name, tuple(told[read.name]))


def build(
    target: Named,
    *,
    runner: Runner | None = None,
    source: str | os.PathLike[str] | None = None,
    say: Say | None = None,
) -> Built:
    """Make what is not up to date; the model is in `folder` of the result, which is dist/ and the target's name.

    `runner`: where steps run; `source`: the folder of another checkpoint. Raises OnnxmakeError.
    """
    with _asked(runner, say):
        return _build(*_steps(target, source))


def check(
    target: Named,
    *,
    runner: Runner | None = None,
    source: str | os.PathLike[str] | None = None,
    say: Say | None = None,
) -> Checked:
    """Build, then compare a twin with Transformers and the model with the unquantised one. Raises CheckFailed where it is wrong
    or misses a gate, OnnxmakeError."""
    with _asked(runner, say):
        read, steps = _steps(target, source)
        _build(read, steps)
        return Checked(read.name, checks.check(read, steps), read.check.gates)


def bench(
    target: Named,
    *,
    runner: Runner | None = None,
    source: str | os.PathLike[str] | None = None,
    say: Say | None = None,
) -> Measured:
    """Build, then measure on the target's device. Raises EnvironmentMissing where that is not here, OnnxmakeError."""
    with _asked(runner, say):
        read, steps = _steps(target, source)
        _build(read, steps)
        measure.measured(read, alone=True)
        return Measured.of(results.of(read, results.delivered(read)["files"]))


@contextlib.contextmanager
def _asked(runner: Runner | None, say: Say | None) -> Iterator[None]:
    key.look_again()  # code and locks may have been edited while this process lives
    with settings.given(runner=runner or ""), heard_by(say or (lambda line: None)):
        settings.choice("runner", ("auto", *runners.RUNNERS))
        yield


def _steps(named: Named, source: str | os.PathLike[str] | None) -> tuple[Target, list[plans.Step]]:
    target = named if isinstance(named, Target) else load_target(named)
    _check_replaced(target)
    return target, plans.steps_of(target, plans.checkpoint_of(target, os.fspath(source) if source else None))


def _check_replaced(target: Target) -> None:
    """Raise TargetError for what `dataclasses.replace` lets through and a file could not say."""
    check_name(target.name)
    if not target.passes:
        raise TargetError(f"{target.name} has no passes.", "A target needs a checkpoint and passes.", "Give it some.")
    for use in target.passes:
        where = f"{target.name}: {use.declaration.name}"
        parse(type(use.options), plain(vars(use.options)), where)
        if (device := getattr(use.options, "device", target.device)) not in (target.device, "portable"):
            raise TargetError(
                f"{where}: device = {device!r}, and the target is for {target.device}.",
                "The target was given another device than its passes have.",
                f'Change it in a file: like = "{target.name}", device = "{target.device}".',
            )
    stages.check(target.passes, target.name)


def _build(target: Target, steps: list[plans.Step]) -> Built:
    """As doit does, one step after the other."""
    checkpoint, made = steps[0].checkpoint, set()
    if not tasks.current(source.is_current, checkpoint)():
        execute.make_source(checkpoint)
    tasks.check_inputs(target, steps)
    for step in steps:
        if not tasks.current(execute.is_current, step)():
            execute.make_step(step, [target.name])
            made.add(step.id)
    if not tasks.current(execute.is_delivered, target, steps)():
        execute.deliver(target, steps)
    record = execute.record_of(target, steps)
    return Built(
        target.name,
        paths.DIST / target.name,
        {name: File(sha, size) for name, (sha, size) in record["files"].items()},
        tuple(BuiltStep.of(step.name, step.record, step.id in made) for step in steps),
    )
