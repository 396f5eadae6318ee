"""A decoder's layers one after the other, each with the inputs that those before it make of a text."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxmake.model.calibration import unusable
from onnxmake.model.feeds import states
from onnxmake.model.graph import attribute
from onnxmake.model.progress import progress
from onnxmake.model.reader import Reader
from onnxmake.model.segments import Segment, Values, advance, segments

TOKENS = 2048  # at once
Grams = dict[str, np.ndarray]  # activation -> X^T X [K, K]
Visit = Callable[[Segment, Values, Grams], None]


def feeds(graph: ir.Graph, rows: np.ndarray) -> list[Values]:
    """The graph's inputs for rows of tokens, a few at a time; nothing is past."""
    step = max(1, TOKENS // rows.shape[1])
    return [_feed(graph, rows[start : start + step]) for start in range(0, len(rows), step)]


def _feed(graph: ir.Graph, rows: np.ndarray) -> Values:
    return states(graph, len(rows)) | {
        "input_ids": rows,
        "attention_mask": np.ones_like(rows),
        "position_ids": np.broadcast_to(np.arange(rows.shape[1]), rows.shape).copy(),
        "token_type_ids": np.zeros_like(rows),
    }


def _grams(segment: Segment, live: Sequence[Values], weights: Values) -> Grams:
    names, out = sorted({*segment.products.values()}), Grams()
    for values in live:
        for name, x in segment.run(values, weights, names).items():
            rows = x.reshape(-1, x.shape[-1])
            with np.errstate(over="ignore", invalid="ignore"):
                out[name] = out.get(name, np.float32(0)) + rows.T @ rows
    for weight, activation in segment.products.items():
        if not np.isfinite(out[activation]).all():
            raise unusable(f", in front of {attribute(segment.references[weight], 'parts')[0]}")
    return out


def layerwise(model: ir.Model, reader: Reader, rows: np.ndarray, visit: Visit) -> None:
    """Layer by layer, let `visit` exchange weights, in place; what follows sees the activations that the new ones give.
    Raises CheckpointError for weights, and UnsupportedError for activations, that are not finite.

    The model is changed. Memory: one layer's weights, and every sample's hidden states.
    """
    parts, done = segments(model, [model.graph.outputs[0].name]), 0
    live = feeds(model.graph, rows)
    total = sum(segment.size for segment in parts)
    while parts:
        segment = parts.pop(0)
        weights = segment.weights(reader)
        if segment.products:
            visit(segment, weights, _grams(segment, live, weights))
        if parts:
            advance(segment, live, weights, parts)
        done += segment.size
        progress(done, total)
