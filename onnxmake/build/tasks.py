"""The plan as doit tasks. The key decides what is up to date: doit gives order, selection and the command line."""

import functools
import gc
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from doit import get_var
from doit.exceptions import TaskFailed

from onnxmake.build import execute, fetch, key, locks, paths, prebuilt, runner, settings, source, support
from onnxmake.build.plan import Plan, Step, checkpoint_of, steps_of
from onnxmake.build.releases import read_releases
from onnxmake.build.target import Target, read_targets
from onnxmake.errors import OnnxmakeError, TargetError

CONFIG = {
    "backend": "memory",
    "default_tasks": [
        "build:tiny-fp32-*",
        "build:tiny-int*",
    ],  # the embedded model; all would be a hundred gigabytes of downloads
    "verbosity": 2,
    "continue": not {"build", "bench", "check", "verify"}.isdisjoint(
        sys.argv
    ),  # of all targets, one that fails does not stop the others
    "par_type": "thread",  # each step has a process of its own
}
Task = dict
NO_PARAMETERS = inspect.Signature()


def _stop(number: int, frame: object) -> None:
    """Leave as after any error: on the way out, running steps are ended and working folders removed."""
    sys.exit(128 + number)


def _given() -> dict[str, Path]:
    """The workflow of doit olive=FILE: target olive. Raises TargetError."""
    named = settings.setting("olive")
    if not named:
        return {}
    file = Path(named).resolve()
    if not file.is_file():
        raise TargetError(
            f"olive={named} is no file.", "A typing error, or the file is elsewhere.", "Correct olive=FILE."
        )
    os.environ["ONNXMAKE_OLIVE"] = str(file)  # for builds that this one starts: doit verify
    return {"olive": file}


def load_plan() -> Plan:
    """Read all targets, and clear up after processes that were killed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    for option, value in zip(sys.argv, sys.argv[1:]):
        if option in ("-p", "--prompt") and "=" in value:  # doit has taken it for a variable of its own
            sys.exit(f"ERROR The prompt {value!r} holds an equals sign.\n  Next: write it as --prompt={value!r}.")
    gc.disable()  # what a command makes lives as long as it does: looking for garbage takes a tenth of a large plan's time
    for root in (paths.CACHE, paths.BUILD, paths.DIST):
        locks.sweep(root / locks.WORKING)
    locks.sweep(paths.CACHE / "locks")
    try:
        settings.choice("runner", ("auto", *runner.RUNNERS))
        found = read_targets(paths.target_folders(), _given())
    except OnnxmakeError as error:
        sys.exit(f"ERROR {error}")
    override = get_var("source")
    planned = {name: (t, steps_of(t, checkpoint_of(t, override))) for name, t in found.items() if isinstance(t, Target)}
    broken: dict[str, OnnxmakeError] = {  # under a name that a task can have
        name.replace("=", "_"): t for name, t in found.items() if isinstance(t, OnnxmakeError)
    }
    releases, wrong = read_releases(paths.target_folders(), planned, broken)
    return Plan(planned, broken | wrong, releases)


def failure_of(function: Callable, *args, **options) -> str:
    """Call; errors that a person can act on are caught here, and only here. Returns the error's text, empty if all is well."""
    try:
        function(*args, **options)
    except OnnxmakeError as error:
        return str(error)
    return ""


def acting(function: Callable, *args) -> Callable[..., TaskFailed | None]:
    """A doit action."""

    def action(**options) -> TaskFailed | None:
        failure = failure_of(function, *args, **options)
        return TaskFailed(failure) if failure else None

    return action


def current(function: Callable, *args) -> Callable:
    """A doit up-to-date check.

    A question that cannot be answered is answered no: the action then says what is wrong.
    """

    def check() -> bool:
        try:
            return function(*args)
        except (OnnxmakeError, OSError):
            return False

    # doit asks for it at every task, and working it out takes as long as the check
    check.__signature__ = NO_PARAMETERS  # type: ignore[attr-defined]
    return check


def task(name: str, doc: str, function: Callable, *args, check: Callable | None = None, **fields) -> Task:
    return {
        "name": name,
        "doc": doc,
        "actions": [(acting(function, *args),)],
        "io": {"capture": False},
        "uptodate": [current(check, *args) if check else False],
        **fields,
    }


def sources(plan: Plan) -> Iterator[Task]:
    for identity, checkpoint in plan.checkpoints.items():
        yield task(
            identity,
            "describe the checkpoint, fetching it first if it is on the hub",
            execute.make_source,
            checkpoint,
            check=source.is_current,
        )


def steps(plan: Plan) -> Iterator[Task]:
    users = plan.users
    for identity, step in plan.steps.items():
        before = f"_step:{step.before.id}" if step.before else f"_source:{step.checkpoint.id}"
        yield task(
            identity,
            step.use.declaration.doc.split("\n")[0],
            functools.partial(execute.make_step, targets=users[identity]),
            step,
            check=execute.is_current,
            task_dep=[before],
        )


def needs(target: Target, chain: list[Step]) -> str:
    """Names what a target asks of its checkpoint and of datasets: those that ask the same are checked once."""
    asked = [*dict.fromkeys(step.name for step in chain), target.device, *(["unproven"] if target.unproven else [])]
    asked += [Path(step.use.files[file]).stem for step in chain for file in step.use.hub]
    return f"{chain[0].checkpoint.id}:{'+'.join(asked)}"


def check_inputs(target: Target, chain: list[Step]) -> None:
    """Before a target's first step: does the checkpoint hold what the later ones need, is its architecture proven, and is what they read
    of datasets here?"""
    support.check(target, chain[0].checkpoint)
    for step in chain:
        key.check_inputs(step)
        fetch.data_of(step.use)


def inputs(plan: Plan) -> Iterator[Task]:
    for name, (target, chain) in {needs(*both): both for both in plan.targets.values()}.items():
        yield task(
            name,
            "check that the checkpoint has every file that the steps need and that its architecture is proven; fetch what they read of datasets",
            check_inputs,
            target,
            chain,
            task_dep=[f"_source:{chain[0].checkpoint.id}"],
        )


def failing(error: OnnxmakeError) -> None:
    raise error


def builds(plan: Plan) -> Iterator[Task]:
    for name, (target, chain) in plan.targets.items():
        yield task(
            name,
            target.description,
            execute.deliver,
            target,
            chain,
            check=execute.is_delivered,
            task_dep=[f"_inputs:{needs(target, chain)}", f"_step:{chain[-1].id}"],
            clean=[functools.partial(execute.clean, target)],
        )
    for name, error in plan.broken.items():
        yield task(name, f"BROKEN: {error.fact}", failing, error)


def prebuilt_graphs() -> Task:
    return {
        "actions": [(acting(prebuilt.refresh),)],
        "io": {"capture": False},
        "doc": "export the shipped targets' graphs into targets/prebuilt",
    }
