"""A decision table: questions, each with rows of a condition, an answer and the reason. decisions.toml says how one is written."""

import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError, UnsupportedError

FILE = Path(__file__).with_name("decisions.toml")
ASKED, REFUSE = "asked", "refuse"  # tables that are no questions


@dataclass(frozen=True)
class Decision:
    """The answer to a question, why it is that, and what else could be chosen."""

    question: str
    choice: Any
    because: str
    instead: str = ""


@functools.cache
def table() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text("utf-8"))


def _holds(value: Any, wanted: Any) -> bool:
    value = "" if value is None else value
    if isinstance(wanted, dict):
        return value != "" and wanted.get("from", -math.inf) <= value < wanted.get("below", math.inf)
    return value in wanted if isinstance(wanted, list) else value == wanted


def fitting(rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first row whose condition holds."""
    return next((r for r in rows if all(_holds(facts.get(k), v) for k, v in r.get("when", {}).items())), None)


def decide(facts: Mapping[str, Any], asked: Mapping[str, str]) -> dict[str, Decision]:
    """Question -> answer, in the table's order. `asked`: answers that the command line gives, "" for none.

    Raises TargetError for an answer that the table does not know, UnsupportedError where a row refuses what comes of it.
    """
    rows, answers = table(), {name: given for name, given in asked.items() if given}
    for name, given in answers.items():
        if given not in rows[ASKED][name]:
            raise TargetError(
                f"--{name} {given} is none that there is.",
                "A typing error.",
                f"{nearest(given, rows[ASKED][name])} There are {', '.join(rows[ASKED][name])}.",
            )
    known, made = {**facts, **answers}, {}
    for question in (name for name in rows if name not in (ASKED, REFUSE)):
        if question in answers:
            made[question] = Decision(question, answers[question], f"asked for by --{question}")
        elif row := fitting(rows[question], known):
            choice = known[row["take"]] if "take" in row else row["choose"]
            known[question] = choice
            made[question] = Decision(question, choice, row["because"].format_map(known), row.get("instead", ""))
    if row := fitting(rows[REFUSE], known):
        raise UnsupportedError(*(row[key].format_map(known) for key in ("fact", "because", "instead")))
    return made
