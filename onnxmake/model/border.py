"""What goes into a packaged model and comes out of it: the names that a pass's options say, and what may be done there."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxmake.errors import PassError, TargetError
from onnxmake.model.graph import DOMAIN
from onnxmake.model.nearest import nearest

STATES = ("past_key_values.", "present.")


def need_packaged(graph: ir.Graph, what: str) -> None:
    """Raises PassError where the graph is not bound and lowered yet."""
    if any(node.domain == DOMAIN for node in graph):
        raise PassError(
            f"{what} came before the model was packaged.",
            "It works on the model that is shipped; before that, the graph is compared with Transformers as it is.",
            f"Move {what} down, behind package_onnx or package_genai.",
        )


def need_no_states(values: Iterable[ir.Value], what: str) -> None:
    """Raises PassError for keys, values and other states, which GenAI hands from one call to the next by name, in one buffer."""
    for value in values:
        if value.name.startswith(STATES):
            raise PassError(
                f"{what} would change {value.name}.",
                "It is a state: GenAI hands it on by its name, in a buffer that past and present share.",
                "Name other inputs and outputs.",
            )


def need_no_decoder(graph: ir.Graph, what: str) -> None:
    """Raises PassError for a model that GenAI runs: its configuration names inputs and outputs."""
    if any(value.name.startswith(STATES) for value in graph.inputs):
        raise PassError(
            f"{what} would change inputs or outputs of a model that generates text.",
            "GenAI knows them by name, and genai_config.json is written.",
            "Use it for models that package_onnx packs, without states.",
        )


def named(values: Sequence[ir.Value], names: Iterable[str], what: str) -> list[ir.Value]:
    """Those of `values` with these names. Raises TargetError, which says what the values are: "input"."""
    known = {value.name: value for value in values}
    for name in names:
        if name not in known:
            raise TargetError(f"There is no {what} {name!r}.", f"The model has no such {what}.", nearest(name, known))
    return [known[name] for name in names]


def matched(values: Sequence[ir.Value], globs: Iterable[str], what: str) -> list[ir.Value]:
    """Those of `values` whose name a glob matches. Raises TargetError for one that matches none."""
    found: dict[str, ir.Value] = {}
    for glob in globs:
        here = {value.name: value for value in values if fnmatch.fnmatchcase(value.name, glob)}
        if not here:
            raise TargetError(
                f"No {what} is named {glob!r}.",
                f"The glob matches none of the model's {what}s.",
                nearest(glob, [value.name for value in values]),
            )
        found |= here
    return list(found.values())


def free_name(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Raises TargetError where a new name, of old -> new, is another value's already."""
    values = (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs))
    taken = {value.name for value in values} - {*names}
    for new in names.values():
        if new in taken or list(names.values()).count(new) > 1:
            raise TargetError(f"Two values would be named {new!r}.", "A name stands for one.", "Choose another name.")
