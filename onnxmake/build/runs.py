"""What is done with targets, releases, images and architectures, as doit tasks."""

import sys
from collections.abc import Iterator

from onnxmake.build import bundle, check, image, measure, search, show, support, verify
from onnxmake.build import releases as release_file
from onnxmake.build.misnamed import misnamed_by
from onnxmake.build.plan import Plan
from onnxmake.build.tasks import Task, acting, failing, needs, task
from onnxmake.errors import TargetError
from onnxmake.release import found, publish, release


def misnamed(plan: Plan) -> Iterator[Task]:
    """What the command line names that there is not: tasks that say so, with the nearest that there is."""
    released = {one.name for one in found.releases()} if _asked("publish") else ()
    for word in dict.fromkeys(sys.argv[1:]):
        if error := misnamed_by(plan, word, released):
            made = task(word, "say what there is", failing, error)
            yield _named(made, word)


def _named(made: Task, word: str) -> Task:
    """The task in no group."""
    return {k: v for k, v in made.items() if k != "name"} | {"basename": word}


def _asked(group: str) -> bool:
    """Whether the command line is about this group: among thousands of targets, tasks that nobody wants take their time, too."""
    return any(word.split(":")[0] in (group, "list", "help", "info", "tabcompletion") for word in sys.argv[1:])


def shows(plan: Plan) -> Iterator[Task]:
    for name, (target, _) in plan.targets.items() if _asked("show") else ():
        yield task(name, "print the target with all that it takes over and leaves to defaults", show.show, target)
    for name, file in plan.releases.items() if _asked("show") else ():
        yield task(name, "print the release file", release_file.show, file)
    for name, error in plan.broken.items() if _asked("show") else ():
        yield task(name, f"BROKEN: {error.fact}", failing, error)


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
        {
            "name": "adapter",
            "short": "a",
            "long": "adapter",
            "default": "",
            "help": "adapter to generate with, of those that stand beside the model",
        },
    ]
    for name, (target, _) in plan.targets.items() if _asked("try") else ():
        doc = "generate text with the built model"
        made = task(name, doc, measure.generate, target, task_dep=[f"build:{name}"], params=params)
        yield _named(made, f"try:{name}")


def _alone(made: Task, group: str) -> Task:
    """The task outside its group: `doit GROUP` leaves it out, GROUP:NAME finds it, and builds the target first."""
    return _named(made, f"{group}:{made['name']}") | {"task_dep": [f"build:{made['name']}"]}


def benches(plan: Plan) -> Iterator[Task]:
    """`doit bench` measures what is built."""
    if not _asked("bench"):
        return
    for name, (target, _) in plan.targets.items():
        show = [(acting(measure.show),)]
        made = task(name, "measure the built model", measure.bench, target, f"bench:{name}" in sys.argv, teardown=show)
        yield made if measure.is_built(target) else _alone(made, "bench")
    yield from _nothing(plan, "doit bench:NAME builds a target and measures it.")


def _nothing(plan: Plan, advice: str) -> Iterator[Task]:
    """For a group of what is built, where nothing is."""
    if not any(measure.is_built(target) for target, _ in plan.targets.values()):
        yield task("nothing", "say that nothing is built", failing, TargetError("Nothing is built yet.", "", advice))


def bundles(plan: Plan) -> Iterator[Task]:
    for name, (target, _) in plan.targets.items() if _asked("bundle") else ():
        doc = "pack the built model with what its device's machine needs to measure it"
        made = task(name, doc, bundle.pack, target, task_dep=[f"build:{name}"])
        yield made if bundle.has(target) else _alone(made, "bundle")


def images() -> Iterator[Task]:
    fresh = {"name": "no_cache", "long": "no-cache", "type": bool, "default": False, "help": "build every layer again"}
    for name in image.names():
        yield task(name, "build the environment's image, if it is not there yet", image.make, name, params=[fresh])


def checks(plan: Plan) -> Iterator[Task]:
    """`doit check` looks at what is built."""
    if not (_asked("check") or _asked("release")):
        return
    for name, (target, chain) in plan.targets.items():
        doc = "compare a twin with Transformers, and the built model with the unquantised one"
        made = task(name, doc, check.check, target, chain, task_dep=[f"build:{name}"])
        yield made if measure.is_built(target) else _alone(made, "check")
    yield from _nothing(plan, "doit check:NAME builds a target and checks it.")


def releases(plan: Plan) -> Iterator[Task]:
    """Of one target, or of those that a release file names. Each stands outside the group: a version is for ever."""
    if not _asked("release"):
        return
    single = ((name, (name,), None) for name in plan.targets)
    for name, several, file in (*single, *((name, file.keys.targets, file) for name, file in plan.releases.items())):
        checks = [f"check:{target}" for target in several]
        found = [plan.targets[target] for target in several]
        made = task(name, "pack what was checked with its papers", release.release, found, file, task_dep=checks)
        yield _named(made, f"release:{name}")
    for name, error in plan.broken.items():
        yield _named(task(name, f"BROKEN: {error.fact}", failing, error), f"release:{name}")


def publishes(plan: Plan) -> Iterator[Task]:
    """Of every name that has a release, and of those that could have one, which are told that they have none. Each outside the group, as above."""
    if _asked("publish"):
        for name in sorted({*plan.targets, *plan.releases, *(one.name for one in found.releases())}):
            made = task(name, "bring a release to where others get it", publish.publish, name)
            yield _named(made, f"publish:{name}")


def verifies(plan: Plan) -> Iterator[Task]:
    """`doit verify` looks at what is built."""
    if not _asked("verify"):
        return
    for name, (target, chain) in plan.targets.items():
        doc = "build a second time, elsewhere and without the store, and compare"
        made = task(name, doc, verify.verify, target, chain, task_dep=[f"build:{name}"])
        yield made if measure.is_built(target) else _alone(made, "verify")
    yield from _nothing(plan, "doit verify:NAME builds a target and verifies it.")


def searches(plan: Plan) -> Iterator[Task]:
    """Of targets with [search]; each stands outside the group, as it takes long."""
    if not _asked("search"):
        return
    searched = {name: both for name, both in plan.targets.items() if both[0].search}
    for name, (target, chain) in searched.items():
        doc = "try options, and keep the variants that nothing beats"
        made = task(name, doc, search.search, target, chain, task_dep=[f"_inputs:{needs(target, chain)}"])
        yield _named(made, f"search:{name}")


def support_table() -> Task:
    return {
        "actions": [(acting(lambda: support.show(support.read())),)],
        "io": {"capture": False},
        "doc": "which architectures are proven right, and where",
    }


def sweeps() -> Iterator[Task]:
    """`doit sweep` proves all at once; sweep:NAME stands outside the group."""
    if not _asked("sweep"):
        return
    yield task("all", "prove every architecture, which takes about half an hour", support.refresh, ())
    for word in sys.argv[1:]:
        group, _, name = word.partition(":")
        if group == "sweep" and name and name != "all":
            made = task(name, "prove one architecture", support.refresh, (name,))
            yield _named(made, word)
