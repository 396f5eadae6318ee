"""`doit regressions`: what was measured here beside what releases tell of their own speed, as a table in Markdown.

A figure is judged where the machine is the same, by name and number of cores; elsewhere it is shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import paths, results
from onnxmake.build.commands import Command
from onnxmake.build.plan import Plan, named
from onnxmake.build.report import say
from onnxmake.errors import CheckFailed, StoreError, TargetError

Result = Mapping[str, Any]
FIGURES: dict[str, tuple[str, int, Callable[[Result, Result], float | None]]] = {  # of a result and one of its runs
    # name -> how it is written, which sign makes less the better, and where it is; None where the model has no such figure
    "size MB": ("{:.2f}", 1, lambda result, run: sum(size for _, size in result["files"].values()) / 1e6),
    "first token ms": ("{:.1f}", 1, lambda result, run: run["first_token_s"]["p50"] * 1e3),
    "prefill tok/s": ("{:.0f}", -1, lambda result, run: run["prefill"]["p50"]),
    "decode tok/s": ("{:.1f}", -1, lambda result, run: run["decode"]["p50"] if run["decode"] else None),
}
ANYWHERE = ("size MB",)  # the same on every machine
MACHINE = ("cpu", "cores", "gpu")  # the system's version changes too often on hosted runners
WORSE = "WORSE"
HEADINGS = ("target", "prompt", "figure", "release", "now", "change", "")


@dataclass(frozen=True)
class Line:
    """A figure then and now; `verdict` is WORSE, why it was not judged, or empty."""

    target: str
    prompt: int
    figure: str
    then: float
    now: float
    verdict: str

    @property
    def cells(self) -> list[str]:
        form = FIGURES[self.figure][0]
        change = f"{self.now / self.then - 1:+.1%}"
        return [
            self.target,
            str(self.prompt),
            self.figure,
            form.format(self.then),
            form.format(self.now),
            change,
            self.verdict,
        ]


def machine(result: Result) -> tuple:
    return tuple(result["machine"].get(name) for name in MACHINE)


def compared(then: Result, now: Result, tolerance: float) -> Iterator[Line]:
    """Every figure that both results have, at each prompt that both have; `tolerance` is a fraction."""
    before = {run["prompt_tokens"]: run for run in then["runs"]}
    alike = machine(then) == machine(now)
    for run in now["runs"]:
        prompt = run["prompt_tokens"]
        for name, (_, sign, of) in FIGURES.items() if prompt in before else ():
            old, new = of(then, before[prompt]), of(now, run)
            if not old or new is None:
                continue
            judged, worse = alike or name in ANYWHERE, sign * (new / old - 1) > tolerance
            verdict = (WORSE if worse else "") if judged else "another machine"
            yield Line(now["target"], prompt, name, old, new, verdict)


def told(folder: Path) -> dict[str, Result]:
    """Target -> result, of the bench.json files at any depth. Raises StoreError for one that is none, or a second one of a target."""
    if not folder.is_dir():
        raise StoreError(
            f"{folder} is no folder.", "--since names one with the last releases' bench.json.", "Correct it."
        )
    found: dict[str, Result] = {}
    for file in sorted(folder.rglob("bench.json")):
        result = results.read(file)
        if result is None or result["target"] in found:
            raise StoreError(
                f"{paths.shown(file)} is {'no result' if result is None else 'a second one of ' + result['target']}.",
                "It is damaged, or the folder holds more than the last release of each target.",
                "Fetch the last releases anew, into an empty folder.",
            )
        found[result["target"]] = result
    return found


def lines(plan: Plan, names: Sequence[str], folder: Path, tolerance: float) -> tuple[list[Line], list[str]]:
    """Of the named targets that were measured as they are built; and names of those of which no release tells. Raises StoreError."""
    then, unknown = told(folder), []
    found: list[Line] = []
    for name in names:
        target, _ = plan.targets[name]
        built = results.delivered(target)
        now = results.of(target, built["files"]) if built else None
        if now is None:
            continue
        if name in then and then[name]["device"] == now["device"]:
            found += compared(then[name], now, tolerance)
        else:
            unknown.append(name)
    return found, unknown


class Regressions(Command):
    """Figures of `doit bench` beside those of releases."""

    doc_purpose = "what got slower or larger than in the last releases"
    cmd_options = (
        {"name": "since", "long": "since", "default": "", "help": "a folder with the last releases' bench.json"},
        {
            "name": "tolerance",
            "long": "tolerance",
            "type": float,
            "default": 10.0,
            "help": "percent; machines that others share are that noisy",
        },
        {"name": "fail", "long": "fail", "type": bool, "default": False, "help": "end with an error if anything did"},
    )

    def work(self, plan, params, arguments):
        from tabulate import tabulate

        if not params["since"]:
            raise TargetError("Since when?", "", "doit regressions --since FOLDER, with the last releases' bench.json.")
        found, unknown = lines(plan, named(plan, arguments), Path(params["since"]), params["tolerance"] / 100)
        worse = [line for line in found if line.verdict == WORSE]
        if found:
            say(tabulate([line.cells for line in found], HEADINGS, tablefmt="github", disable_numparse=True))
        say(f"\n{len(worse)} of {len(found)} figures are worse by more than {params['tolerance']:g} %.")
        if unknown:
            say(f"No release tells figures of {', '.join(unknown)}.")
        if params["fail"] and not (found or unknown):
            raise CheckFailed("Nothing is measured as it is built.", "doit bench did not run, or failed.", "doit bench")
        if worse and params["fail"]:
            raise CheckFailed(
                f"{worse[0].target} is worse than its last release: {worse[0].figure} {' -> '.join(worse[0].cells[3:5])}.",
                "A change of passes, options or runtime; or the machine was busy.",
                "Measure again; the table shows all that is worse.",
            )
