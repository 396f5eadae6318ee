"""The order of a target's passes: from the checkpoint to a graph, from that to a packaged model, and on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxmake.errors import TargetError

if TYPE_CHECKING:
    from onnxmake.build.target import Use

STAGES = {  # what a pass works on, in the order of a target: STAGE in its file
    "checkpoint": "works on the checkpoint",
    "export": "makes a graph of the checkpoint",
    "graph": "works on a graph whose weights are still the checkpoint's",
    "package": "packages a graph",
    "model": "works on a packaged model",
}
ONCE = ("export", "package")
ORDER = (
    "Passes that tune come first, then export, what works on the graph, one that packages, what works on the package."
)


def check(uses: Sequence["Use"], where: str) -> None:
    """Raises TargetError for a pass that comes too late, a second one of what there is one, and a graph that is not packaged.

    `surgery` and others that name two stages, "graph model", work on either.
    """
    at, before = "checkpoint", 1
    for number, use in enumerate(uses, 1):
        label = f"{where}: [[pass]] {number} ({use.declaration.name})"
        mine = use.declaration.stages
        stage = next((s for s in mine if _rank(s) >= _rank(at)), mine[-1])
        if _rank(stage) < _rank(at):
            raise TargetError(
                f"{label} {STAGES[stage]}, and [[pass]] {before} ({uses[before - 1].declaration.name}) comes before it.",
                ORDER,
                f"Put it above [[pass]] {before}.",
            )
        if stage == at and stage in ONCE:
            raise TargetError(
                f"{label} {STAGES[stage]}, as [[pass]] {before} ({uses[before - 1].declaration.name}) does.",
                "A target is one graph, in one package.",
                "Leave one of them out.",
            )
        if stage != at:
            at, before = stage, number
    there = {stage for use in uses for stage in use.declaration.stages}
    if "export" in there and "package" not in there:
        raise TargetError(
            f"{where}: no pass packages the model.",
            "Its weights are still those of the checkpoint, which no runtime reads.",
            'Add [[pass]] with use = "package_genai", or "package_onnx" for what generates no text.',
        )


def _rank(stage: str) -> int:
    return [*STAGES].index(stage)
