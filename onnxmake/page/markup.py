"""HTML put together from values: whatever is not markup already is escaped."""

import html
from collections.abc import Collection, Sequence
from typing import Any

BLANK = "–"  # of a cell without a value
SHORT = 12  # digits of a digest
VOID = ("meta", "link", "br")


class Html(str):
    """Text that is markup."""


def escaped(value: Any) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(*parts: Any) -> Html:
    """One after the other; None and sequences are what they hold."""
    flat = (joined(*part) if isinstance(part, list | tuple) else escaped(part) for part in parts if part is not None)
    return Html("".join(flat))


def element(tag: str, *content: Any, **attributes: Any) -> Html:
    """Of attributes with underscores for hyphens, one at the end where the name is Python's; None leaves an attribute out."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    told = "".join(f' {name}="{escaped(value)}"' for name, value in named.items())
    return Html(f"<{tag}{told}>" + ("" if tag in VOID else f"{joined(*content)}</{tag}>"))


def link(target: str, text: Any) -> Html:
    """To a place on the page, or to an address that learns nothing of where one came from."""
    return element("a", text, href=target, rel=None if target.startswith("#") else "noreferrer")


def linked(name: str) -> Html:
    """A target's name, that leads to its part of the page."""
    return link(f"#target-{name}", name)


def pill(word: Any, kind: str = "") -> Html:
    """A verdict. `kind`: good, bad, open or none."""
    return element("span", word, class_=f"pill {kind}".rstrip())


def code(text: Any, whole: Any = None) -> Html:
    """In one width; `whole` is told where one points at it."""
    return element("code", text, title=whole)


def row(cells: Sequence[Any], numbers: Collection[int] = ()) -> Html:
    """The first cell is the row's heading."""
    made = [
        element("td" if i else "th", cell, scope=None if i else "row", class_="number" if i in numbers else None)
        for i, cell in enumerate(cells)
    ]
    return element("tr", made)


def table(
    caption: str,
    heads: Sequence[Any],
    groups: Sequence[tuple[Any, Sequence[Sequence[Any]]]],
    numbers: Collection[int] = (),
    kind: str = "heard",
) -> Html:
    """In a box that scrolls by itself. `groups`: heading, or None, and rows; `numbers`: columns to be set to the right; `kind`: whether
    the caption is seen, or heard only, as a heading above says the same."""
    columns = [element("th", h, scope="col", class_="number" if i in numbers else None) for i, h in enumerate(heads)]
    bodies = []
    for heading, lines in groups:
        named = element("tr", element("th", heading, scope="rowgroup", colspan=len(heads)), class_="group")
        bodies.append(element("tbody", named if heading is not None else None, [row(line, numbers) for line in lines]))
    whole = element("table", element("caption", caption, class_=kind), element("thead", element("tr", columns)), bodies)
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def folded(summary: Any, *content: Any) -> Html:
    """What is read by those who open it."""
    return element("details", element("summary", summary), content)


def described(pairs: Sequence[tuple[Any, Any]]) -> Html:
    """Names and what they stand for; pairs without a value are left out."""
    found = [(name, value) for name, value in pairs if value not in (None, "")]
    return element("dl", [element("div", element("dt", name), element("dd", value)) for name, value in found])


def short(digest: str) -> Html:
    """A digest's first digits."""
    return code(digest[:SHORT], digest)


def tiles(counts: Sequence[tuple[Any, str]]) -> Html:
    """Numbers that are seen at once, and of what they are."""
    return element("ul", [element("li", element("strong", n), " ", of) for n, of in counts], class_="tiles")
