"""What values a graph's tensors take on given inputs: the graph run by ONNX Runtime with these tensors as its outputs."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model.assemble import assemble
from onnxmake.model.calibration import Feed, unusable
from onnxmake.model.graph import constant, emit
from onnxmake.model.lowering import Device
from onnxmake.model.ranges import BINS, Seen
from onnxmake.model.session import open_session

MASK = 1e30  # |x| of what only hides other values is larger
Choice = Callable[[ir.Graph], Sequence[ir.Value]]  # of tensors; the same of the same graph


@contextlib.contextmanager
def running(
    model: ir.Model, choice: Choice, device: Device, checkpoint: Path
) -> Iterator[Callable[[Feed], list[np.ndarray]]]:
    """A function from inputs to the chosen tensors, in their order. The graph stays as it is; of a copy, what is left to lower is
    lowered for `device`, and weights are bound in a temporary folder. The CPU runs it.
    """
    copy = ir.from_proto(ir.to_proto(model))
    graph, ends = copy.graph, [ir.node("Identity", [value]) for value in choice(copy.graph)]
    graph.extend(ends)
    graph.outputs[:] = [end.outputs[0] for end in ends]
    for i, end in enumerate(ends):
        end.outputs[0].name, end.outputs[0].type = f"chosen.{i}", end.inputs[0].type
    with tempfile.TemporaryDirectory() as folder:
        assemble(copy, device, checkpoint, Path(folder), lambda done, total: None)
        session = open_session(Path(folder, "model.onnx"))
        names = {i.name for i in session.get_inputs()}
        yield lambda feed: session.run(None, {name: value for name, value in feed.items() if name in names})


def observe(model: ir.Model, choice: Choice, device: Device, checkpoint: Path, feeds: Iterable[Feed]) -> list[Seen]:
    """What was seen of each chosen tensor in two runs over all inputs. Memory is bounded by the tensors of one input.

    Raises UnsupportedError for values that are not finite.
    """
    seen, feeds = [Seen() for _ in choice(model.graph)], list(feeds)
    with running(model, choice, device, checkpoint) as run:
        for feed in feeds:
            for tensor, value in zip(seen, run(feed)):
                tensor.low, tensor.high = min(tensor.low, float(value.min())), max(tensor.high, float(value.max()))
                if not np.isfinite([value.min(), value.max()]).all():
                    raise unusable()
        for feed in feeds:
            for tensor, value in zip(seen, run(feed)):
                peak = max(-tensor.low, tensor.high) or 1.0
                tensor.counts += np.histogram(np.abs(value), BINS, (0, peak))[0]
    return seen


def peaks(model: ir.Model, choice: Choice, device: Device, checkpoint: Path, feeds: Iterable[Feed]) -> np.ndarray:
    """The largest |x| of each chosen tensor, in one run over all inputs; NaN, and values as large as masks have them, do not count.

    Raises UnsupportedError where an output of the graph is NaN.
    """
    with running(model, lambda graph: [_peak(value) for value in choice(graph)], device, checkpoint) as run:
        found = np.max([np.array(run(feed), np.float64) for feed in feeds], 0)
    if any(value.is_graph_output() and np.isinf(peak) for value, peak in zip(choice(model.graph), found)):
        raise unusable()
    return np.where(np.isinf(found), 0, found)


def _peak(value: ir.Value) -> ir.Value:
    """Of one value, computed behind all others of its graph, so that no whole tensor is handed out. Infinity where it holds NaN."""
    graph, end = value.graph, ir.node("Identity", [value])
    graph.append(end)
    size = emit(end, "Abs", [value], value.shape)
    mask = emit(
        end, "Less", [size, constant(graph, np.array(MASK, value.dtype.numpy()))], value.shape, dtype=ir.DataType.BOOL
    )
    zero, infinity = (constant(graph, np.array(x, value.dtype.numpy())) for x in (0, np.inf))
    shown = emit(end, "Where", [mask, size, zero], value.shape, dtype=value.dtype)
    nan = emit(end, "IsNaN", [value], value.shape, dtype=ir.DataType.BOOL)
    shown = emit(end, "Where", [nan, infinity, shown], value.shape, dtype=value.dtype)
    out = emit(end, "ReduceMax", [shown], [], keepdims=0)
    graph.remove(end, safe=True)
    return out
