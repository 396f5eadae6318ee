"""Commands beside doit's own: `list` shows targets, `why` says what a build would do and for which reason, `plan` the same in short."""

import sys
from collections.abc import Mapping
from typing import Any

from doit.cmd_base import DoitCmdBase
from doit.cmd_list import List
from doit.cmdparse import CmdParseError

from onnxmake.build import results
from onnxmake.build.plan import Plan, named
from onnxmake.build.report import say
from onnxmake.build.schema import nearest
from onnxmake.build.tasks import failure_of, load_plan
from onnxmake.build.verdict import judge
from onnxmake.errors import TargetError

ABOUT = """
doit new -m OWNER/NAME          write a target for a model        (--device D --precision P --max-size-mb N; --build: build it, too)
doit build:NAME                 build one target into dist/NAME   (doit build: all of them)
doit show:NAME                  the target with every option, as it is read
doit try:NAME -p "text"         generate text with it             (-a NAME: with that adapter)
doit bench:NAME                 measure it                        (doit bench: all that are built)
doit check:NAME                 is it right, and how good?        (doit check: all that are built)
doit verify:NAME                does a second build give the same? (doit verify: all that are built)
doit compare NAME ...           methods side by side              (doit compare: all that are built)
doit report                     all of that as a page: build/report/index.html
doit search:NAME                try the options that its [search] names, keep what nothing beats
doit release:NAME               check it and pack it with its papers: version=1.0.0 key=FILE.pem archive=yes
doit publish:NAME               bring a release elsewhere: to=oci://HOST/REPO, hf://OWNER/NAME or dir://PATH, go=yes
doit bundle:NAME                pack it to measure it where its device is
doit image:NAME                 an environment as an image        (doit image: all of them)
doit support                    which architectures are proven    (doit sweep:NAME: prove one anew)
doit runner=docker build:NAME   build it in containers
doit why build:NAME             what would run, and why
doit plan build:NAME            the same as a table, with times   (--since FOLDER: what no release there has)
doit regressions --since FOLDER what got slower or larger than in the releases there
doit olive=FILE build:olive     build what a workflow of Olive says (allow_scripts=true: with its scripts)
doit import -c FILE -o TOML     write it as a target to edit      (doit coverage -d FOLDER: which of them translate)
doit schema                     the JSON Schema of target files, for editors
doit cache                      the store: status, verify, gc, pack, unpack
doit clean build:NAME           remove dist/NAME                  (doit clean: all)"""


class ListTargets(List):
    """One line per target; with task names, and for a shell that completes them, doit's own list."""

    doc_purpose = "list targets"

    @staticmethod
    def _list_filtered(tasks, filter_tasks, include_subtasks):
        """With --all, of a group also what stands outside it."""
        inside = tuple(f"{name}:" for name in filter_tasks)
        outside = [t for t in tasks.values() if include_subtasks and not t.subtask_of and t.name.startswith(inside)]
        known = [name for name in filter_tasks if name in tasks or not outside]
        return outside + List._list_filtered(tasks, known, include_subtasks)

    def _list_all(self, include_subtasks):
        """Without --all, nothing that a group stands for."""
        groups = {t.name for t in self.task_list}
        every = super()._list_all(include_subtasks)
        return [t for t in every if include_subtasks or ":" not in t.name or t.name.partition(":")[0] not in groups]

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
        if pos_args or private or subtasks or quiet or template:
            return super()._execute(subtasks, quiet, status, private, list_deps, template, sort, pos_args)
        plan = load_plan()
        names = {*plan.targets, *plan.releases, *plan.broken}
        width = max(map(len, names), default=0)
        for name in sorted(names):
            if name in plan.broken:
                say(f"{name:<{width}}  {'BROKEN':<14}  {plan.broken[name].fact}")
            elif name in plan.releases:
                release = plan.releases[name]
                built = [n for n in release.keys.targets if results.delivered(plan.targets[n][0])]
                state = f"{len(built)} of {len(release.keys.targets)} built"
                say(f"{name:<{width}}  {state:<14}  {release.description}")
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

    doc_usage = "[TASK ...]"  # the word by which `doit tabcompletion` knows what to complete
    doc_description: str | None = None
    cmd_options: tuple[dict, ...] = ()

    def work(self, plan: Plan, params: Mapping[str, Any], arguments: list[str]) -> None:
        raise NotImplementedError

    def parse_execute(self, in_args):
        """As doit's own, but that a mistake is told with the nearest option, not with all that there are and how they are declared."""
        try:
            return super().parse_execute(in_args)
        except CmdParseError as error:
            found, options = error.__context__, ["--" + option["long"] for option in self.cmd_options]
            advice = nearest(f"--{getattr(found, 'opt', '')}", options)
            if "requires" in str(found):
                advice = "Write a value behind it."
            said = TargetError(f"doit {self.name}: {found or error}.", "A typing error.", advice)
            sys.stderr.write(f"ERROR {said}\n")
            return 3  # as doit

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
