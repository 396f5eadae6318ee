"""Names beside points, so that none covers another name or a point."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LINE, LETTER = 15, 7  # pixels of a line's height and of a letter's width, rather too many than too few
MARK = 7  # pixels of a point's radius, with its outline
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Label:
    """`x`, `y`: the baseline's start, middle or end, as `anchor` says; `far`: a line to its point is needed."""

    text: str
    x: float
    y: float
    anchor: str
    far: bool = False


def box_of(label: Label) -> Box:
    width = LETTER * len(label.text)
    left = label.x - width * {"start": 0, "middle": 0.5, "end": 1}[label.anchor]
    return (left, label.y - LINE + 4, left + width, label.y + 4)


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _candidates(text: str, x: float, y: float) -> Iterator[Label]:
    """Right, left, below, above; then further and further up and down on both sides."""
    sides = ((MARK + 4, "start"), (-MARK - 4, "end"))
    for right, anchor in sides:
        yield Label(text, x + right, y + 4, anchor)
    for down in (MARK + LINE, -MARK - 4):
        yield Label(text, x, y + down, "middle")
    for away in range(LINE, 40 * LINE, LINE):
        for right, anchor in sides:
            for down in (away, -away):
                yield Label(text, x + 2 * right, y + down + 4, anchor, far=True)


def placed(points: Sequence[tuple[str, float, float]], inside: Box) -> list[Label]:
    """A label for each (text, x, y) in order; the last place tried where there is no free one."""
    taken = [(x - MARK, y - MARK, x + MARK, y + MARK) for _, x, y in points]
    labels = []
    for text, x, y in points:
        for label in _candidates(text, x, y):
            box = box_of(label)
            within = inside[0] <= box[0] and box[2] <= inside[2] and inside[1] <= box[1] and box[3] <= inside[3]
            if within and not any(_meet(box, other) for other in taken):
                break
        labels.append(label)
        taken.append(box_of(label))
    return labels
