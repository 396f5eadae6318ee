"""What a session is fed beside what is asked of it, and what it gives back beside its states."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.session import TYPES

STATE, NEXT = "past_key_values", "present"  # what names of states begin with, going in and coming out


def empty(session: Any, batch: int) -> dict[str, np.ndarray]:
    """States before the first token: no keys and values, and zeros for what has a fixed size."""
    sizes = {"past": 0, "batch": batch}
    states = [i for i in session.get_inputs() if i.name.startswith(STATE)]
    return {i.name: np.zeros([sizes.get(d, d) for d in i.shape], _type(i)) for i in states}


def states(graph: ir.Graph, batch: int) -> dict[str, np.ndarray]:
    """The same for a graph, in float32."""
    sizes = {"batch": batch}
    known = [(v.name, [d if isinstance(d, int) else sizes.get(str(d), 0) for d in v.shape]) for v in graph.inputs]
    return {name: np.zeros(shape, np.float32) for name, shape in known if name.startswith(STATE)}


def _type(given: Any) -> str:
    """Raises UnsupportedError for a type that numpy has not."""
    if given.type not in TYPES:
        raise UnsupportedError(
            f"The model's input {given.name} is a {given.type}.",
            "ONNX Runtime takes no such array on a CPU.",
            'Cast to "fp16" or "fp32" to evaluate it.',
        )
    return TYPES[given.type]


def generates(session: Any) -> bool:
    """Whether the model continues a text: it hands on states."""
    return any(output.name.startswith(NEXT) for output in session.get_outputs())


def outputs(session: Any, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> array of all that the model computes but states, for `feed`, whose arrays begin with the batch.

    The feed may hold more than the model reads; floats take the model's type; states that it leaves out are empty.
    Raises UnsupportedError for an input that it lacks.
    """
    inputs, given = session.get_inputs(), empty(session, len(next(iter(feed.values())))) | dict(feed)
    if missing := [i.name for i in inputs if i.name not in given]:
        raise UnsupportedError(
            f"The model reads {', '.join(missing)}, which an evaluation does not give.",
            "It takes more than a text, a picture or a sound.",
            "Leave [check] without gates on what it computes.",
        )
    names = [output.name for output in session.get_outputs() if not output.name.startswith(NEXT)]
    return dict(zip(names, session.run(names, {i.name: given[i.name].astype(_type(i), copy=False) for i in inputs})))
