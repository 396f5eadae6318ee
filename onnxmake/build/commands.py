"""Commands beside doit's own: `list` shows targets, `why` says what a build would do and for which reason, `plan` the same in short."""

import sys
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from doit.cmd_base import DoitCmdBase
from doit.cmd_list import List

from onnxmake.build import results
from onnxmake.build.plan import Plan, named
from onnxmake.build.report import say
from onnxmake.build.tasks import failure_of, load_plan
from onnxmake.build.verdict import DEPENDS, RESTORE, RUN, UP_TO_DATE, Verdict, judge

ABOUT = """
doit build:NAME                 build one target into dist/NAME   (doit build: all of them)
doit show:NAME                  the target with every option, as it is read
doit try:NAME -p "text"         generate text with it
doit bench:NAME                 measure it                        (doit bench: all that are built)
doit check:NAME                 is it right, and how good?        (doit check: all that are built)
doit verify:NAME                does a second build give the same? (doit verify: all that are built)
doit compare NAME ...           methods side by side              (doit compare: all that are built)
doit search:NAME                try the options that its [search] names, keep what nothing beats
doit release:NAME               check it and pack it with its papers: version=1.0.0 key=FILE.pem
doit publish:NAME               bring a release elsewhere: to=oci://HOST/REPO, hf://OWNER/NAME or dir://PATH, go=yes
doit bundle:NAME                pack it to measure it where its device is
doit image:NAME                 an environment as an image        (doit image: all of them)
doit support                    which architectures are proven    (doit sweep:NAME: prove one anew)
doit runner=docker build:NAME   build it in containers
doit why build:NAME             what would run, and why
doit plan build:NAME            the same as a table, with times
doit cache                      the store: status, verify, gc, pack, unpack
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
                say(f"{name:<{width}}  {'BROKEN':<14}  {plan.broken[name].fact}")
            else:
                target, _ = plan.targets[name]
                built = results.delivered(target)
                state = (
                    "-"
                    if built is None
                    else "built, not run"
                    if results.of(target, built["files"]) is None
                    else "built, run"
                )
                say(f"{name:<{width}}  {state:<14}  {target.description}")
        say(ABOUT)
        return 0


class Command(DoitCmdBase):
    """A command of onnxmake's own: `work` does it, errors are told as tasks' are."""

    doc_usage = "build:NAME ..."
    doc_description: str | None = None
    cmd_options: tuple[dict, ...] = ()

    def work(self, plan: Plan, params: Mapping[str, Any], arguments: list[str]) -> None:
        raise NotImplementedError

    def execute(self, params, args):
        failure = failure_of(self.work, load_plan(), params, args)
        if failure:
            sys.stderr.write(f"ERROR {failure}\n")
        return 1 if failure else 0


class Why(Command):
    """Say for each step of the named builds whether it is up to date, would be restored or would run, and why."""

    doc_purpose = "explain what a build would do"

    def work(self, plan, params, arguments):
        for name, verdicts in judge(plan, named(plan, arguments)).items():
            say(f"build:{name}")
            for v in verdicts:
                first, *more = v.reasons or ("",)
                say(f"  {v.name:<16} {v.verdict:<10}  {first}".rstrip())
                for reason in more:
                    say(f"{'':31}{reason}")


class PlanBuilds(Command):
    """One line for each step that the named builds have, and how long it took last time."""

    doc_purpose = "list the steps of a build before it runs"

    def work(self, plan, params, arguments):
        from tabulate import tabulate

        told = judge(plan, named(plan, arguments))
        users: dict[Verdict, list[str]] = {}
        for name, verdicts in told.items():
            for verdict in verdicts:
                users.setdefault(verdict, []).append(name)
        rows = [
            [v.name, ", ".join(by), v.verdict, "" if v.seconds is None else f"{v.seconds:.2f}", _short(v)]
            for v, by in users.items()
        ]
        if rows:
            wrapped = [None, 40, None, None, 60] if sys.stdout.isatty() else None  # a program reads one line per step
            heads = ["step", "for", "verdict", "last s", "reason"]
            say(tabulate(rows, heads, disable_numparse=True, maxcolwidths=wrapped))
            say(_total(users))


def _short(verdict: Verdict) -> str:
    if verdict.verdict == UP_TO_DATE:
        return ""
    return verdict.reasons[0] + (f" and {len(verdict.reasons) - 1} more" if verdict.reasons[1:] else "")


def _total(verdicts: Collection[Verdict]) -> str:
    counts = Counter(v.verdict for v in verdicts)
    running = [v for v in verdicts if v.verdict in (RUN, DEPENDS) and v.name not in ("source", "dist")]
    known = sum(v.seconds or 0 for v in running)
    unknown = sum(v.seconds is None for v in running)
    text = ", ".join(f"{counts[kind]} {kind}" for kind in (RUN, DEPENDS, RESTORE, UP_TO_DATE) if counts[kind])
    guess = f"; steps that run took {known:.1f} s last time" if known else ""
    return f"{text}{guess}{f', {unknown} never ran here' if unknown else ''}"
