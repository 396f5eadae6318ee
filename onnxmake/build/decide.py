"""A decision table: questions, each with rows of a condition, an answer and the reason. decisions.toml says how one is written."""

import functools
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError, UnsupportedError

FILE = Path(__file__).with_name("decisions.toml")
ASKED, ELSEWHERE, REFUSE = "asked", "elsewhere", "refuse"  # tables that are no questions


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


def _holds(value: Any, wanted: Any, facts: Mapping[str, Any]) -> bool:
    value = "" if value is None else value
    if isinstance(wanted, dict):
        low, high = (wanted.get(end, default) for end, default in (("from", -math.inf), ("below", math.inf)))
        low, high = (facts.get(bound) if isinstance(bound, str) else bound for bound in (low, high))
        return not {None, ""} & {value, low, high} and low <= value < high
    return value in wanted if isinstance(wanted, list) else value == wanted


def fitting(rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first row whose condition holds."""
    return next((r for r in rows if all(_holds(facts.get(k), v, facts) for k, v in r.get("when", {}).items())), None)


def chosen(name: str, given: str, choices: Iterable[Any]) -> Any:
    """The one of `choices` that --name says, whatever its case. Raises TargetError where it is none of them."""
    known, word = {str(choice): choice for choice in choices}, given.lower()
    if word in known:
        return known[word]
    closest = {other.lower(): advice for other, advice in table()[ELSEWHERE].get(name, {}).items()}
    near = closest.get(word) or nearest(word, known)
    raise TargetError(
        f"--{name.replace('_', '-')} {given} is none that there is.",
        "It is another tool's word." if word in closest else "A typing error.",
        near if near.startswith("Valid") else f"{near} There are {', '.join(known)}.",
    )


def decide(facts: Mapping[str, Any], asked: Mapping[str, str]) -> dict[str, Decision]:
    """Question -> answer, in the table's order. `asked`: answers that the command line gives, "" for none.

    Raises TargetError for an answer that the table does not know, UnsupportedError where a row refuses what comes of it.
    """
    rows = table()
    answers = {name: chosen(name, given, rows[ASKED][name]) for name, given in asked.items() if given}
    known, made = {**facts, **answers}, {}
    for question in (name for name in rows if isinstance(rows[name], list) and name != REFUSE):
        if question in answers:
            made[question] = Decision(question, answers[question], f"asked for by --{question.replace('_', '-')}")
        elif row := fitting(rows[question], known):
            choice = known[row["take"]] if "take" in row else row["choose"]
            known[question] = choice
            made[question] = Decision(question, choice, row["because"].format_map(known), row.get("instead", ""))
    if row := fitting(rows[REFUSE], known):
        raise UnsupportedError(*(row[key].format_map(known) for key in ("fact", "because", "instead")))
    return made
