"""The steps behind a built target: how they came to be, and as a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmake.build import history, show, store
from onnxmake.build.target import Target
from onnxmake.page.markup import Html, code, described, element, folded, joined, pill, short


@dataclass(frozen=True)
class Step:
    """How a step came to be, as far as it is still known. `size`: bytes of its files; `memory`: bytes; `verb`: ran or restored."""

    name: str
    key: str
    environment: str = ""
    lock: str = ""
    options: str = ""
    verb: str = ""
    runner: str = ""
    because: Sequence[str] = ()
    seconds: float | None = None
    memory: int | None = None
    size: int | None = None


def steps_of(target: Target, made: Sequence[Mapping[str, str]]) -> list[Step]:
    """Of the manifest's list: what is in the store and in this output folder about exactly these keys."""
    records, out = {record["key"]: record for _, record in history.chain(target.name)}, []
    for step in made:
        key, record = step["key"], records.get(step["key"], {})
        document = store.document(key) or {"environment": {"name": "", "lock": ""}, "options": {}}
        options = ", ".join(f"{name} = {show.value(given)}" for name, given in document["options"].items())
        size = sum(size for _, size in record["files"].values()) if record else None
        told = {name: record[name] for name in ("verb", "runner", "because", "seconds", "memory") if name in record}
        where = document["environment"]
        out.append(Step(step["pass"], key, where["name"], where["lock"], options, size=size, **told))
    return out


def _step(step: Step, longest: float) -> Html:
    took = None if step.seconds is None else f"{step.seconds:.2f} s"
    memory = None if step.memory is None else f"{step.memory / 1e6:,.0f} MB"
    size = None if step.size is None else f"{step.size / 1e6:,.2f} MB"
    head = [
        element("strong", step.name),
        " ",
        pill(step.verb, "good" if step.verb == "ran" else "") if step.verb else None,
    ]
    share = element("span", class_="bar", style=f"--share: {(step.seconds or 0) / longest:.1%}") if took else None
    pairs = [
        ("environment", step.environment),
        ("ran in", step.runner if step.verb == "ran" else None),
        ("took", took),
        ("peak memory", memory),
        ("result", size),
        ("key", short(step.key)),
    ]
    first = element("p", "Because: ", step.because[0], class_="note") if step.because else None
    all_of_it = element("ul", [element("li", one) for one in step.because]) if len(step.because) > 1 else None
    told = f"Options, and all {len(step.because)} reasons" if all_of_it else "Options"
    more = folded(told, element("p", code(step.options or "none")), all_of_it)
    return element("li", element("p", head), share, described(pairs), first, more)


def drawn(steps: Sequence[Step], first: Html, last: Html) -> Html:
    """The graph: a chain from checkpoint to files, each step with its share of the longest one's time."""
    longest = max((step.seconds or 0 for step in steps), default=0) or 1
    total = sum(step.seconds or 0 for step in steps)
    ends = [element("li", element("p", end), class_="end") for end in (first, last)]
    note = element(
        "p", f"When they ran they took {total:.1f} s together. Restored: taken from the store.", class_="note"
    )
    return joined(element("ol", ends[0], [_step(step, longest) for step in steps], ends[1], class_="steps"), note)
