"""The plan as doit tasks. The key decides what is up to date: doit gives order, selection and the command line."""

import functools
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from doit import get_var
from doit.exceptions import TaskFailed

from onnxmake.build import execute, key, measure, paths, prebuilt, source
from onnxmake.build.plan import Step, checkpoint_of, steps_of
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target, read_targets
from onnxmake.errors import OnnxmakeError

CONFIG = {
    "backend": "sqlite3",
    "dep_file": ":memory:",
    "default_tasks": ["build"],
    "verbosity": 2,
    "continue": "build" in sys.argv,  # of all targets, one that fails does not stop the others
}
Task = dict


@dataclass(frozen=True)
class Plan:
    """Every readable target with its steps, and the errors of the others."""

    targets: dict[str, tuple[Target, list[Step]]]
    broken: dict[str, OnnxmakeError]

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        return {steps[0].checkpoint.id: steps[0].checkpoint for _, steps in self.targets.values()}

    @property
    def steps(self) -> dict[str, Step]:
        return {step.id: step for _, steps in self.targets.values() for step in steps}


def load_plan() -> Plan:
    """Read all targets; SIGTERM is turned into an exit, so that running steps are ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for option, value in zip(sys.argv, sys.argv[1:]):
        if option in ("-p", "--prompt") and "=" in value:  # doit has taken it for a variable of its own
            sys.exit(f"ERROR The prompt {value!r} holds an equals sign.\n  Next: write it as --prompt={value!r}.")
    try:
        found = read_targets(paths.target_folders())
    except OnnxmakeError as error:
        sys.exit(f"ERROR {error}")
    override = get_var("source")
    planned = {name: (t, steps_of(t, checkpoint_of(t, override))) for name, t in found.items() if isinstance(t, Target)}
    return Plan(planned, {name: t for name, t in found.items() if isinstance(t, OnnxmakeError)})


def acting(function: Callable, *args) -> Callable[..., TaskFailed | None]:
    """A doit action. Errors that a person can act on are caught here, and only here."""

    def action(**options) -> TaskFailed | None:
        try:
            function(*args, **options)
        except OnnxmakeError as error:
            return TaskFailed(str(error))
        return None

    return action


def current(function: Callable, *args) -> Callable:
    """A doit up-to-date check.

    A question that cannot be answered is answered no: the action then says what is wrong.
    """

    def check(task, values) -> bool:
        try:
            return function(*args)
        except (OnnxmakeError, FileNotFoundError):
            return False

    return check


def _task(name: str, doc: str, function: Callable, *args, check: Callable | None = None, **fields) -> Task:
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
        yield _task(
            identity,
            "describe the checkpoint, fetching it first if it is on the hub",
            execute.make_source,
            checkpoint,
            check=source.is_current,
        )


def steps(plan: Plan) -> Iterator[Task]:
    for identity, step in plan.steps.items():
        before = [f"_step:{step.before.id}"] if step.before else []
        yield _task(
            identity,
            step.use.declaration.doc.split("\n")[0],
            execute.make_step,
            step,
            check=execute.is_current,
            task_dep=[f"_source:{step.checkpoint.id}", *before],
        )


def inputs(plan: Plan) -> Iterator[Task]:
    """Before a target's first step: does the checkpoint hold what the later ones need?"""
    for name, (_, chain) in plan.targets.items():

        def check(chain=chain) -> None:
            for step in chain:
                key.check_inputs(step)

        yield _task(
            name,
            "check that the checkpoint has every file that the steps need",
            check,
            task_dep=[f"_source:{chain[0].checkpoint.id}"],
        )


def _fail(error: OnnxmakeError) -> None:
    raise error


def builds(plan: Plan) -> Iterator[Task]:
    for name, (target, chain) in plan.targets.items():
        yield _task(
            name,
            target.description,
            execute.deliver,
            target,
            chain,
            check=execute.is_delivered,
            task_dep=[f"_inputs:{name}", *(f"_step:{s.id}" for s in chain)],
            clean=[functools.partial(execute.clean, target)],
        )
    for name, error in plan.broken.items():
        yield _task(name, f"BROKEN: {error.fact}", _fail, error)


def tries(plan: Plan) -> Iterator[Task]:
    params = [
        {"name": "prompt", "short": "p", "long": "prompt", "default": "", "help": "text to continue"},
        {
            "name": "tokens",
            "short": "n",
            "long": "tokens",
            "type": int,
            "default": 64,
            "help": "tokens to generate at most",
        },
    ]
    for name, (target, _) in plan.targets.items():
        yield _task(
            name,
            "generate text with the built model",
            measure.generate,
            target,
            task_dep=[f"build:{name}"],
            params=params,
        )


def benches(plan: Plan) -> Iterator[Task]:
    """`doit bench` measures what is built.

    For a target that is not, bench:x stands outside the group and builds x first.
    """
    for name, (target, _) in plan.targets.items():
        task = _task(name, "measure the built model", measure.bench, target, teardown=[(acting(measure.show),)])
        if not measure.is_built(target):
            task = {k: v for k, v in task.items() if k != "name"} | {
                "basename": f"bench:{name}",
                "task_dep": [f"build:{name}"],
            }
        yield task


def prebuilt_graphs() -> Task:
    return {
        "actions": [(acting(prebuilt.refresh),)],
        "io": {"capture": False},
        "doc": "export the shipped targets' graphs into targets/prebuilt",
    }
