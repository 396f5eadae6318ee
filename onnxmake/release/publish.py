"""`doit publish:NAME to=...`: a release, byte for byte, to where others get it. It says what it would send; with go=yes it sends it."""

import importlib
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from onnxmake.build.report import say
from onnxmake.build.schema import nearest
from onnxmake.build.settings import choice, setting
from onnxmake.errors import TargetError
from onnxmake.release import received
from onnxmake.release.found import Released, the_release

FOLDER = Path(__file__).with_name("destinations")
THERE = {True: "there already", False: "to be sent", None: "not known"}


class Item(NamedTuple):
    """What is sent as one. `digest`: sha256, in hex."""

    name: str
    size: int
    digest: str
    there: bool | None = None


class Seen(NamedTuple):
    """What a destination holds of a release, as far as it tells without credentials; `note` says what else is to be known."""

    items: list[Item]
    note: str = ""


def schemes() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("[a-z]*.py"))


def _destination(to: str) -> tuple[Any, str]:
    """The module of the scheme, and what follows it. Raises TargetError."""
    scheme, colon, rest = to.partition("://")
    if not to or not colon:
        forms = ", ".join(importlib.import_module(f"{__package__}.destinations.{one}").FORM for one in schemes())
        raise TargetError(f"to={to} is no destination." if to else "Where to?", "", f"to=..., one of {forms}.")
    if scheme not in schemes():
        raise TargetError(f"{scheme}:// leads nowhere.", "A typing error.", nearest(scheme, schemes()))
    return importlib.import_module(f"{__package__}.destinations.{scheme}"), rest


def _show(release: Released, seen: Seen, to: str) -> None:
    from tabulate import tabulate

    rows = [[i.name, f"{i.size:,}", i.digest[:12], THERE[i.there]] for i in seen.items]
    say(
        tabulate(
            rows, ["file", "bytes", "sha256", ""], colalign=("left", "right", "left", "left"), disable_numparse=True
        )
    )
    if seen.note:
        say(seen.note)
    if all(i.there for i in seen.items):
        say("Nothing is left to send.")
        return
    todo = sum(i.size for i in seen.items if not i.there)
    say(f"Nothing was sent; at most {todo / 1e6:,.1f} MB would be. To send it:")
    say(f"  doit publish:{release.name} version={shlex.quote(release.version)} to={shlex.quote(to)} go=yes")


def publish(name: str) -> None:
    """Raises CheckFailed for a release that its receiver would refuse, StoreError where there is none or the destination holds another
    under its version, TargetError, and what the destination raises."""
    to, go = setting("to"), choice("go", ("no", "yes")) == "yes"
    module, where = _destination(to)
    release = the_release(name, setting("version"))
    received.verify(release.folder)
    if go:
        module.send(release, where)
    else:
        _show(release, module.look(release, where), to)
