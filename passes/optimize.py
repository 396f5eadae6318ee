"""Lower semantic ops to the device's: attention, norms and rotary embeddings, packed query-key-value products.

Invariant: equal outputs up to rounding. Linear ops and weight references stay: quantisers read them.
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxmake.model.graph import prune
from onnxmake.model.lowering import Device, lower
from onnxmake.model.simplify import simplify

ENVIRONMENT = "cpu"


@dataclass(frozen=True)
class Options:
    device: Device  # the target's, or "portable": standard ops only


def rewrite(model: ir.Model, o: Options) -> int:
    count = lower(model.graph, o.device, keep={"Linear"})
    simplify(model)
    if not any(v.uses() for v in model.graph.inputs if v.name == "position_ids"):
        model.graph.inputs[:] = [v for v in model.graph.inputs if v.name != "position_ids"]
    prune(model.graph)
    return count
