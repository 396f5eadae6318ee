"""`doit plan`: the steps of builds before they run, or the targets that are due for a release."""

import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import due, paths
from onnxmake.build.commands import Command
from onnxmake.build.plan import Plan, named
from onnxmake.build.report import say
from onnxmake.build.verdict import DEPENDS, RESTORE, RUN, UP_TO_DATE, Verdict, judge


class PlanBuilds(Command):
    """One line for each step that the named builds have, and how long it took last time; or which of them no release has."""

    doc_purpose = "list the steps of a build before it runs"
    cmd_options = (
        {
            "name": "since",
            "long": "since",
            "default": "",
            "help": "instead: targets whose recipe is that of no release in this folder, of releases or of their provenance",
        },
        {
            "name": "matrix",
            "long": "matrix",
            "type": bool,
            "default": False,
            "help": "the same as one line, targets=[...], as a job in CI hands it on; without --since, of dist/releases",
        },
    )

    def work(self, plan, params, arguments):
        if params["since"] or params["matrix"]:
            _due(plan, params, arguments)
        else:
            self._table(plan, arguments)

    def _table(self, plan: Plan, arguments: list[str]) -> None:
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


def _due(plan: Plan, params: Mapping[str, Any], arguments: list[str]) -> None:
    """Raises StoreError; and, where all targets are asked about, what is wrong with any of them: none is left out unnoticed."""
    asked = [name for name in arguments if name != "build"]  # the word by itself stands for all
    if plan.broken and not asked:
        raise next(iter(plan.broken.values()))
    several = [name for name in asked or plan.releases if name in plan.releases]
    single = [name for name in asked if name not in several]
    names = [*(named(plan, single) if single or not asked else ()), *several]
    found = due.due(plan, names, Path(params["since"] or paths.DIST / "releases"))
    if params["matrix"]:
        say(f"targets={json.dumps([*found])}")
    else:
        due.show(found)


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
