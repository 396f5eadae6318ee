"""What was measured of a release's models, for its card: with bench=yes, as the card then is another one on another machine."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxmake.build import results
from onnxmake.build.settings import choice
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed

Speeds = Mapping[str, Mapping[str, Any]]  # target -> result


def measured(targets: Sequence[Target]) -> Speeds:
    """Of the targets as they are built, on their devices; empty unless it is asked for. Raises CheckFailed where nothing was measured."""
    if choice("bench", ("no", "yes")) == "no":
        return {}
    found = {target.name: results.of(target, results.delivered(target)["files"]) for target in targets}
    known = {name: result for name, result in found.items() if result}
    if not known:
        raise CheckFailed(
            f"Nothing was measured of {', '.join(found)} as built.",
            "bench=yes asks for a table of speeds in the card.",
            f"doit bench:{targets[0].name}, where its device is.",
        )
    return known


def table(speeds: Speeds) -> Iterator[list[str]]:
    """The head, then a row for each prompt that was measured."""
    columns = [name for name in results.COLUMNS if name not in ("size", "ratio")]
    yield [results.COLUMNS[name] for name in columns]
    for name, result in speeds.items():
        yield from ([name, str(run["prompt_tokens"]), *results.figures(result, run)] for run in result["runs"])


def machines(speeds: Speeds) -> list[str]:
    return sorted({results.described(result) for result in speeds.values()})
