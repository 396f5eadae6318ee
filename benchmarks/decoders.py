"""What a decoder computes and is made of, whichever tool built it: errors against Transformers, and counted nodes."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.model.running import LAST, STEPS, Runner, decoded


class Decoder(Runner):
    """A decoder whose states may be named and sized as other tools do: past*.0.key becomes present.0.key."""

    def __init__(self, file: Path):
        super().__init__(file)
        past = {name.partition(".")[2]: name for name in self.inputs if name.startswith("past")}
        names = [o.name for o in self.session.get_outputs()]
        if names[0] != "logits" or len(past) != len(names) - 1:
            raise ValueError(f"its states are unknown: it reads {[*self.inputs]} and gives {names}")
        self.past = [past[name.partition(".")[2]] for name in names[1:]]
        config = file.with_name("genai_config.json")
        self.head = json.loads(config.read_text())["model"]["decoder"]["head_size"] if config.exists() else 0

    def empty(self, batch: int) -> list[np.ndarray]:
        """States before the first token."""

        def size(dim: int | str) -> int:
            if isinstance(dim, int):
                return dim
            if dim == "kv_cache_dim":  # GenAI's builder leaves the width of a head to its configuration
                return self.head
            return batch if "batch" in dim else 0

        return [np.zeros([size(d) for d in self.inputs[name].shape], np.float32) for name in self.past]


def _relative(compute: Callable[[], np.ndarray], wanted: np.ndarray, scale: float) -> float | str:
    """The largest difference, relative to `scale`; infinite with NaN. Or the first line of what the runtime says."""
    try:
        value = float(np.abs(compute() - wanted).max() / scale)
    except Exception as error:  # the runtime has error classes of its own
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return value if np.isfinite(value) else float("inf")


def errors(file: Path, expected: Mapping[str, np.ndarray]) -> dict[str, float | str]:
    """Of prefill, decode and padded batch, as `parity.compare` has them, each for itself."""
    decoder, ids, logits = Decoder(file), expected["ids"], expected["logits"]
    ones, prompt, scale = np.ones_like(ids), ids.shape[1] - STEPS, np.abs(logits).max()
    rows, mask, batch = (expected[f"batch_{name}"] for name in ("ids", "mask", "logits"))
    seen, prefix = mask.astype(bool), rows.shape[1] - LAST
    return {
        "prefill": _relative(lambda: decoder(ids, ones, decoder.empty(1))[0], logits, scale),
        "decode": _relative(lambda: decoded(decoder, ids, ones, prompt)[:, prompt:], logits[:, prompt:], scale),
        "padded": _relative(lambda: decoded(decoder, rows, mask, prefix)[seen], batch[seen], np.abs(batch).max()),
    }


def _inner(node: ir.Node) -> list[ir.Node]:
    """Nodes of the graphs that branches and loops hold."""
    graphs = [a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [inner for graph in graphs for inner in ir.traversal.RecursiveGraphIterator(graph)]


def _makers(values: Iterable[ir.Value]) -> set[ir.Node]:
    """All nodes that `values` need."""
    waiting, found = [v.producer() for v in values], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found |= {node, *_inner(node)}
        waiting += [v.producer() for each in (node, *_inner(node)) for v in each.inputs if v is not None]
    return found


def _operators(nodes: Iterable[ir.Node]) -> Counter[str]:
    return Counter(n.op_type for n in nodes if n.op_type != "Constant")  # which other tools have as initializers


def _constant(graph: ir.Graph) -> set[ir.Node]:
    """What is computed of constants alone: the runtime does it once, as it loads the model."""
    found: set[ir.Node] = set()
    for node in graph:
        values = [v for v in node.inputs if v is not None]
        if all(v.is_initializer() or v.producer() in found for v in values):
            found.add(node)
    return found


def count(file: Path) -> dict[str, Any]:
    """{"nodes": of the whole graph, "ops": of a layer, by operator, the mean of all}; functions count as one node.

    A layer is what its states need beyond those of the layer before, from one attention to the next, but for constants.
    """
    graph = ir.load(file).graph
    states: dict[int, list[ir.Value]] = {}
    for value in graph.outputs:
        if number := re.search(r"\.(\d+)\.", value.name):
            states.setdefault(int(number[1]), []).append(value)
    first, last = min(states), max(states)
    middle = _makers(v for values in states.values() for v in values) - _makers(states[first]) - _constant(graph)
    return {
        "nodes": _operators(ir.traversal.RecursiveGraphIterator(graph)).total(),
        "ops": {op: n / (last - first) for op, n in _operators(middle).most_common()},
    }
