"""Small rewrites by name: a file each, with two functions.

`before(graph, o)` finds the places and changes nothing, `after(place, o)` changes one. `o` are the options of the pass; TAKES names those
that the rewrite reads, and PACKAGED says that it belongs behind packaging. The file's docstring says what it does.
"""

import importlib
from types import ModuleType
from typing import Any

import onnx_ir as ir

from onnxmake.errors import PassError, TargetError
from onnxmake.model.border import need_packaged
from onnxmake.model.graph import DOMAIN, prune

Surgery = str  # the name of a file here; the host offers those that there are
STAYS = {"Linear", "Experts", "Weight", "QuantizedWeight", "ChannelQuantizedWeight"}  # behind optimize


def _check_options(name: str, takes: tuple[str, ...], o: Any) -> None:
    for option in ("names", "values"):
        if bool(getattr(o, option)) != (option in takes):
            verb = "needs" if option in takes else "takes no"
            example = {"names": 'names = { old = "new" }', "values": 'values = ["name"]'}[option]
            raise TargetError(
                f"The surgery {name} {verb} {option}.",
                f"It reads {', '.join(takes) or 'no option'}.",
                f"{'Add' if option in takes else 'Remove'} {example if option in takes else option}.",
            )


def _check_place(graph: ir.Graph, name: str, surgery: ModuleType) -> None:
    if getattr(surgery, "PACKAGED", False):
        need_packaged(graph, f"surgery {name}")
    early = next((n for n in graph if n.domain == DOMAIN and n.op_type not in STAYS), None)
    if early is not None:
        raise PassError(
            f"surgery {name} came before optimize.",
            f"The graph still has semantic ops such as {early.op_type}, which a device's operators take the place of.",
            "Move it down, behind optimize.",
        )


def operate(model: ir.Model, name: Surgery, o: Any) -> int:
    """Change every place that the surgery finds. Returns how many. Raises PassError and TargetError."""
    surgery = importlib.import_module(f"onnxmake.model.surgeries.{name}")
    _check_options(name, getattr(surgery, "TAKES", ()), o)
    _check_place(model.graph, name, surgery)
    places = list(surgery.before(model.graph, o))
    for place in places:
        surgery.after(place, o)
    prune(model.graph)
    return len(places)
