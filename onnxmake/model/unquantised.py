"""What the unquantised model computes: the reference that a built one is measured against."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model.feeds import NEXT
from onnxmake.model.prequantized import read_logical
from onnxmake.model.reader import Reader
from onnxmake.model.segments import outputs


def reference_outputs(
    graph: Path, checkpoint: Path, feeds: Iterable[dict[str, np.ndarray]]
) -> Iterator[dict[str, np.ndarray]]:
    """For each feed in turn, the outputs but states, name -> float32 array, of the captured graph (semantic ops, references)
    over the checkpoint's weights in float32. Memory holds one layer of the model, and what the feeds are in between.

    A feed may hold more than the graph reads; states that it leaves out are empty.
    """
    model = ir.load(graph)
    wanted = [value.name for value in model.graph.outputs if not value.name.startswith(NEXT)]
    with ThreadPoolExecutor(1) as ahead:
        yield from outputs(model, Reader(read_logical(checkpoint), ahead), [*feeds], wanted)
