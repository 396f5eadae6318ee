"""What a translation has to say: what it refuses, and what will differ."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxmake.errors import TargetError, UnsupportedError


class Refusal(UnsupportedError):
    """One item of a workflow has no counterpart: why, and what comes closest."""

    def __init__(self, why: str, closest: str):
        super().__init__(why, action=closest)
        self.why, self.closest = why, closest


@dataclass
class Told:
    """Collected while a workflow is translated, each with the item that it is about."""

    refused: list[tuple[str, Refusal]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def refuse(self, item: str, refusal: Refusal) -> None:
        if not any((at, other.why) == (item, refusal.why) for at, other in self.refused):
            self.refused.append((item, refusal))

    def note(self, item: str, text: str) -> None:
        if (item, text) not in self.notes:
            self.notes.append((item, text))


class Untranslated(TargetError):
    """All that a workflow has and onnxmake has not, as one error."""

    def __init__(self, where: str, refused: Sequence[tuple[str, Refusal]]):
        items = [f"{item}: {refusal.why}" for item, refusal in refused]
        one = len(items) == 1
        super().__init__(
            f"{where}: {items[0]}." if one else f"{where}: {len(items)} items have no counterpart.",
            "Olive has it, and onnxmake has not." if one else "".join(f"\n    {item}" for item in items),
            " ".join(dict.fromkeys(refusal.closest for _, refusal in refused)),
        )
        self.refused = tuple(refused)
