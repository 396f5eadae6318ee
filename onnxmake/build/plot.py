"""Size against divergence as an SVG, one panel a model: speed is the colour. No library: circles, lines and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from onnxmake.build.axis import Axis, axis, written
from onnxmake.build.labels import placed

WIDTH, HEIGHT = 820, 420  # pixels of a panel
FLOOR = 1e-6  # nats: less is rounding
COLOURS = ((68, 71, 178), (29, 158, 137), (245, 196, 55))  # from slow to fast
ALONG, BESIDE = "size, MB", "KL divergence from the unquantised model, nats"
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.ground { fill: #ffffff } .grid { stroke: #d1d9e0 } .axis { stroke: #59636e } .lead { stroke: #818b98 }
.mark { stroke: #1f2328; stroke-width: 1 } .front { stroke-width: 3 } .unknown { fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .ground { fill: #0d1117 } .grid { stroke: #2f363d } .axis { stroke: #9198a1 }
  .lead { stroke: #656c76 } .mark { stroke: #f0f6fc }
}
"""


@dataclass(frozen=True)
class Box:
    """Where axes are, in pixels of their plot; and how much room names of points have to the right of them."""

    left: float
    top: float
    right: float
    bottom: float
    beyond: float = 20

    def place(self, across: float, up: float) -> tuple[float, float]:
        """Of shares of the axes, 0 to 1."""
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


AXES = Box(84, 46, 630, 358)


@dataclass(frozen=True)
class Point:
    """A built target: MB, nats, tokens/s where they were measured, and whether it is on the Pareto front."""

    name: str
    size: float
    divergence: float
    speed: float | None
    front: bool


def colour(share: float) -> str:
    """Between the colours, at 0 to 1."""
    place = share * (len(COLOURS) - 1)
    i = min(int(place), len(COLOURS) - 2)
    return "#" + "".join(f"{round(a + (b - a) * (place - i)):02x}" for a, b in zip(COLOURS[i], COLOURS[i + 1]))


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def frame(box: Box, across: Axis, up: Axis, below: str, beside: str) -> list[str]:
    """Axes, ticks, and what they measure."""
    out = []
    for value, word in across.ticks.items():
        x, _ = box.place(across.at(value), 0)
        out += [line(x, box.top, x, box.bottom, "grid"), text(x, box.bottom + 18, word, "middle")]
    for value, word in up.ticks.items():
        _, y = box.place(0, up.at(value))
        out += [line(box.left, y, box.right, y, "grid"), text(box.left - 8, y + 4, word, "end")]
    out += [
        line(box.left, box.bottom, box.right, box.bottom, "axis"),
        line(box.left, box.top, box.left, box.bottom, "axis"),
    ]
    (middle, height), edge = box.place(0.5, 0.5), box.left - 64
    turned = f' transform="rotate(-90 {edge:.1f} {height:.1f})"'
    return [*out, text(middle, box.bottom + 42, below, "middle"), text(edge, height, beside, "middle", turned)]


def _legend(speeds: Sequence[float], unknown: bool, front: bool) -> list[str]:
    """What colours and outlines mean, as far as they are there."""
    x, y, out = AXES.right + 32, AXES.top + 12, []
    if speeds:
        out += [
            text(x, y, "decode, tokens/s"),
            f'<rect x="{x}" y="{y + 10}" width="16" height="110" fill="url(#speed)"/>',
            text(x + 24, y + 20, written(round(max(speeds), 1))),
        ]
        if min(speeds) < max(speeds):
            out.append(text(x + 24, y + 120, written(round(min(speeds), 1))))
        y += 154
    for wanted, kind, words in (
        (unknown, "mark unknown", "not measured"),
        (front, "mark front unknown", "Pareto front"),
    ):
        if wanted:
            out += [f'<circle cx="{x + 8}" cy="{y - 4}" r="6" class="{kind}"/>', text(x + 24, y, words)]
            y += 24
    return out


def scatter(box: Box, points: Sequence[Point]) -> list[str]:
    """Axes with a mark and a name for each point."""
    across, up = axis([p.size for p in points]), axis([p.divergence for p in points], FLOOR)
    speeds = [p.speed for p in points if p.speed is not None]
    spread = max(speeds) - min(speeds) if speeds else 0
    marks, places = [], []
    for p in points:
        x, y = box.place(across.at(p.size), up.at(p.divergence))
        places.append((p.name, x, y))
        fill = "" if p.speed is None else f' fill="{colour((p.speed - min(speeds)) / spread if spread else 1.0)}"'
        kind = "mark" + (" front" if p.front else "") + (" unknown" if p.speed is None else "")
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="{kind}"{fill}><title>{escape(p.name)}</title></circle>'
        )
    labels, leads = placed(places, (box.left, box.top - 14, box.right + box.beyond, box.bottom)), []
    for label, (_, x, y) in zip(labels, places):
        if label.far:
            near = label.x - 3 if label.anchor == "start" else label.x + 3
            leads.append(line(x, y, near, label.y - 4, "lead"))
    names = [text(label.x, label.y, label.text, label.anchor) for label in labels]
    return [*frame(box, across, up, ALONG, BESIDE), *leads, *marks, *names]


def _panel(title: str, points: Sequence[Point]) -> list[str]:
    speeds = [p.speed for p in points if p.speed is not None]
    legend = _legend(speeds, any(p.speed is None for p in points), any(p.front for p in points))
    return [text(AXES.left, 26, title, more=' class="title"'), *scatter(AXES, points), *legend]


def svg(panels: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Panels (title, points) below each other; readable on light and dark ground."""
    height = HEIGHT * len(panels)
    stops = "".join(f'<stop offset="{i / 2}" stop-color="{colour(i / 2)}"/>' for i in range(3))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style>",
        f'<defs><linearGradient id="speed" x1="0" y1="1" x2="0" y2="0">{stops}</linearGradient></defs>',
        f'<rect width="{WIDTH}" height="{height}" class="ground"/>',
    ]
    for number, (title, points) in enumerate(panels):
        out += [f'<g transform="translate(0 {number * HEIGHT})">', *_panel(title, points), "</g>"]
    return "\n".join([*out, "</svg>", ""])
