"""Which architectures are proven right, and where."""

from collections.abc import Iterator, Mapping, Sequence

from onnxmake.build import support
from onnxmake.page.markup import Html, element, folded, joined, pill, table, tiles


def _groups(rows: Mapping[str, support.Row]) -> Iterator[Html]:
    right = {name: sum(support.is_proven(name, device, rows) for device in support.DEVICES) for name in rows}
    groups = {
        "Right in every column": [name for name in rows if right[name] == len(support.DEVICES)],
        "Right in some": [name for name in rows if 0 < right[name] < len(support.DEVICES)],
        "Right nowhere": [name for name in rows if not right[name]],
    }
    for title, names in groups.items():
        heads = ["architecture", *support.DEVICES, "date", "why not"]
        lines = [
            [name, *map(_verdict, rows[name].verdicts), rows[name].date, _why(rows[name].verdicts)] for name in names
        ]
        yield folded(f"{title}: {len(names)}", table(title, heads, [(None, lines)]))


def _verdict(verdict: str) -> Html:
    word, _, rest = verdict.partition(" ")
    return (
        pill(f"✓ {rest}", "good") if word == "right" else pill(word.rstrip(":"), "bad" if word == "WRONG" else "open")
    )


def _why(verdicts: Sequence[str]) -> Html:
    reasons = dict.fromkeys(v.partition(": ")[2] for v in verdicts if not v.startswith(("right", "WRONG")))
    told = "; ".join(filter(None, reasons))
    return element("span", told, class_="why") if told else joined()


def told(rows: Mapping[str, support.Row]) -> Html | None:
    """How many are right where, and below that all of them, folded."""
    if not rows:
        return None
    proven = {device: sum(support.is_proven(name, device, rows) for name in rows) for device in support.DEVICES}
    counts = tiles([(f"{count} of {len(rows)}", device) for device, count in proven.items()])
    what = "A small twin of each with random weights, compared with Transformers. A number is the largest difference of its outputs."
    return element("section", element("h2", "Architectures"), element("p", what), counts, [*_groups(rows)])
