"""Commands beside doit's own: `list` shows targets, `why` says what a build would do, and for which reason."""

from doit.cmd_base import DoitCmdBase
from doit.cmd_list import List

from onnxmake.build import execute, key, paths, source, store
from onnxmake.build.files import read_json
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.schema import nearest
from onnxmake.build.tasks import Plan, load_plan
from onnxmake.errors import OnnxmakeError

ABOUT = """
doit build:NAME                 build one target into dist/NAME   (doit build: all of them)
doit try:NAME -p "text"         generate text with it
doit bench:NAME                 measure it                        (doit bench: all that are built)
doit why build:NAME             what would run, and why
doit clean build:NAME           remove dist/NAME                  (doit clean: all)"""


class ListTargets(List):
    """One line per target; with task names, doit's own list."""

    doc_purpose = "list targets"

    def _execute(
        self,
        subtasks=False,
        quiet=True,
        status=False,
        private=False,
        list_deps=False,
        template=None,
        sort="name",
        pos_args=None,
    ):  # doit reads the names
        if pos_args or private or subtasks:
            return super()._execute(subtasks, quiet, status, private, list_deps, template, sort, pos_args)
        plan = load_plan()
        width = max(len(name) for name in {*plan.targets, *plan.broken, ""})
        for name in sorted({*plan.targets, *plan.broken}):
            if name in plan.broken:
                say(f"{name:<{width}}  BROKEN    {plan.broken[name].fact}")
            else:
                built = "built" if (paths.DIST / name / "manifest.json").exists() else "-"
                say(f"{name:<{width}}  {built:<8}  {plan.targets[name][0].description}")
        say(ABOUT)
        return 0


class Why(DoitCmdBase):
    """Say for each step of the named builds whether it is up to date, would be restored or would run, and why."""

    doc_purpose = "explain what a build would do"
    doc_usage = "build:NAME ..."
    doc_description = None
    cmd_options = ()

    def execute(self, params, args):
        plan = load_plan()
        names = [name.removeprefix("build:") for name in args] or list(plan.targets)
        for name in names:
            if name in plan.broken:
                say(f"{name}: {plan.broken[name]}")
                return 1
            if name not in plan.targets:
                say(f"ERROR No target is named {name!r}.\n  Next: {nearest(name, plan.targets)}")
                return 1
            say(f"build:{name}")
            for label, verdict, *reasons in explain(plan, name):
                say(f"  {label:<16} {verdict:<10}  {'; '.join(reasons)}".rstrip())
        return 0


def explain(plan: Plan, name: str) -> list[tuple[str, ...]]:
    """(step, verdict, reasons...) for the target, from its checkpoint to dist."""
    target, chain = plan.targets[name]
    checkpoint = chain[0].checkpoint
    fetched = source.is_current(checkpoint)
    lines: list[tuple[str, ...]] = [
        ("source", "up to date" if fetched else "run", "" if fetched else "the checkpoint is new or has changed")
    ]
    stale = None if fetched else "source"
    last = paths.DIST / name / "manifest.json"
    previous = {s["pass"]: s["id"] for s in read_json(last)["steps"]} if last.exists() else {}
    for step in chain:
        if stale:
            lines.append((step.name, "depends", f"on {stale}"))
            continue
        try:
            explained = key.explain(step)
        except (OnnxmakeError, FileNotFoundError) as error:
            lines.append((step.name, "depends", str(error).split("\n")[0]))
            stale = step.name
            continue
        if execute.is_current(step):
            lines.append((step.name, "up to date"))
            continue
        verdict = "restore" if store.find(key.digest(explained)) else "run"
        lines.append((step.name, verdict, *_reasons(step, explained, previous)))
        stale = step.name
    done = stale is None and execute.is_delivered(target, chain)
    lines.append(
        ("dist", "up to date")
        if done
        else ("dist", "run", f"follows {stale}" if stale else "dist holds other files, or none")
    )
    return lines


def _reasons(step: Step, explained: dict, previous: dict[str, str]) -> list[str]:
    manifest = step.manifest if step.manifest.exists() else paths.BUILD / "steps" / f"{previous.get(step.name)}.json"
    if not manifest.exists():
        return ["not built here yet"]
    return key.difference(read_json(manifest)["explained"], explained) or ["its files are not in the store any more"]
