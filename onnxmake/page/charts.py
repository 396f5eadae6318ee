"""Plots as SVG that take their colours from the page: quality against size, and figures over builds."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from onnxmake.build import plot
from onnxmake.build.axis import axis, written
from onnxmake.build.plot import Box, Point
from onnxmake.page.markup import Html, element, joined

WIDE, NARROW = ((760, 400), Box(84, 20, 640, 342, 110)), ((344, 330), Box(78, 20, 330, 272, 8))
SMALL = ((344, 176), Box(58, 16, 330, 138))
MARKS = 4  # shapes and colours of series; more begin anew
RADIUS = 4


@dataclass(frozen=True)
class Dot:
    """A figure found at `number` of a target's past, and what is said of it; `new`: of other files than the one before."""

    number: int
    value: float
    said: str
    new: bool


def _svg(size: tuple[int, int], title: str, said: str, parts: Sequence[str], kind: str) -> Html:
    head = f"<title>{html.escape(title)}</title><desc>{html.escape(said)}</desc>"
    return Html(f'<svg class="{kind}" role="img" viewBox="0 0 {size[0]} {size[1]}">{head}{"".join(parts)}</svg>')


def _key(points: Sequence[Point]) -> Html:
    """What colours and outlines mean."""
    speeds = [p.speed for p in points if p.speed is not None]
    scale = f"linear-gradient(90deg, {', '.join(plot.colour(i / 4) for i in range(5))})"
    told = []
    if speeds and min(speeds) < max(speeds):
        ramp = element("span", class_="ramp", style=f"background: {scale}")
        told.append(
            joined("decode, tokens/s: ", written(round(min(speeds))), " ", ramp, " ", written(round(max(speeds))))
        )
    if any(p.speed is None for p in points):
        told.append(joined(element("span", class_="ring"), " speed not measured"))
    if any(p.front for p in points):
        told.append(joined(element("span", class_="ring front"), " Pareto front: no other is better in all"))
    return element("ul", [element("li", one) for one in told], class_="key")


def quality(model: str, points: Sequence[Point]) -> Html:
    """KL divergence against size; drawn for a screen and for a phone, of which the page shows one."""
    title = f"{model}: quality against size"
    said = "; ".join(f"{p.name}: {p.size:.1f} MB, KL divergence {p.divergence:.3g} nats" for p in points)
    drawn = [
        _svg(size, title, said, plot.scatter(box, points), f"chart {kind}")
        for (size, box), kind in ((WIDE, "wide"), (NARROW, "narrow"))
    ]
    return element("figure", drawn, element("figcaption", _key(points)))


def _mark(kind: int, x: float, y: float, dot: Dot) -> str:
    """Filled where the files were new, a ring where the same were measured again."""
    r = RADIUS
    paths = (
        f"M{-r} 0a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{-r} {-r}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M0 {-r - 1}L{r + 1} {r}H{-r - 1}z",
        f"M0 {-r - 2}L{r + 2} 0L0 {r + 2}L{-r - 2} 0z",
    )
    shape = f'<path d="{paths[kind]}" transform="translate({x:.1f} {y:.1f})" class="dot s{kind}{"" if dot.new else " again"}">'
    return f"{shape}<title>{html.escape(dot.said)}</title></path>"


def over_builds(title: str, unit: str, series: Sequence[tuple[int, Sequence[Dot]]]) -> Html:
    """A line for each series (kind, dots), which are not joined: they were found on different machines, or on different texts."""
    (size, box), dots = SMALL, sorted((dot for _, one in series for dot in one), key=lambda dot: dot.number)
    up = axis([dot.value for dot in dots])
    first, last = dots[0].number, dots[-1].number
    parts = []
    for value, word in [*up.ticks.items()][:: 1 + len(up.ticks) // 7]:
        _, y = box.place(0, up.at(value))
        parts += [plot.line(box.left, y, box.right, y, "grid"), plot.text(box.left - 8, y + 4, word, "end")]
    parts.append(plot.line(box.left, box.bottom, box.right, box.bottom, "axis"))
    for kind, one in series:
        places = [box.place((d.number - first + 0.5) / (last - first + 1), up.at(d.value)) for d in one]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{drawn}" class="line s{kind % MARKS}"/>')
        parts += [_mark(kind % MARKS, x, y, dot) for dot, (x, y) in zip(one, places)]
    parts.append(plot.text((box.left + box.right) / 2, box.bottom + 26, "measurements, oldest first", "middle"))
    said = "; ".join(dot.said for dot in dots)
    caption = element("figcaption", element("strong", title), f" {written(float(f'{dots[-1].value:.4g}'))} {unit}")
    return element("figure", caption, _svg(size, f"{title}, {unit}, over builds", said, parts, "chart"))


def bar(share: float, text: str) -> Html:
    """A number with its share of the largest below it."""
    return joined(element("span", text), element("span", class_="bar", style=f"--share: {share:.1%}"))
