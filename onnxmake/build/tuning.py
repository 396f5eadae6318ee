"""What must hold of a target's passes that tune its checkpoint: nothing that they make may be lost, or meet other weights than its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxmake.errors import TargetError

if TYPE_CHECKING:
    from onnxmake.build.target import Use

ATTACHES = "attach_adapters"


def check(uses: Sequence["Use"], where: str) -> None:
    """Raises TargetError for an adapter that is named twice, is attached nowhere, or comes before weights that are merged."""
    named: list[str] = []
    for number, use in enumerate(uses, 1):
        name = getattr(use.options, "adapter", None) if use.declaration.tunes else None
        if name is None:
            continue
        if name in named:
            raise TargetError(
                f"{where}: [[pass]] {number} ({use.declaration.name}): adapter = {name!r} is there already.",
                "Two passes give their adapters one name.",
                "Give this one another.",
            )
        if not name and named:
            raise TargetError(
                f"{where}: [[pass]] {number} ({use.declaration.name}) changes the weights that the adapter {named[0]!r} is made for.",
                "What is merged comes behind an adapter that is not.",
                "Put it first, or give it an adapter's name, too.",
            )
        named += [name] if name else []
    if named and all(use.declaration.name != ATTACHES for use in uses):
        raise TargetError(
            f"{where}: the adapter {named[0]!r} is made, and no pass attaches it.",
            "Adapters are put beside the model by a pass of their own.",
            f'Add [[pass]] with use = "{ATTACHES}" in front of packaging, or leave out adapter.',
        )
