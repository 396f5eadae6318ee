"""Lower semantic ops to the device's: attention, norms and rotary embeddings, packed query-key-value products.

Invariant: equal outputs up to rounding. Linear ops and weight references stay: quantisers read them.
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxmake.model.lowering import Device
from onnxmake.model.optimize import optimize

ENVIRONMENT = "cpu"


@dataclass(frozen=True)
class Options:
    device: Device  # the target's, or "portable": standard ops only


def rewrite(model: ir.Model, o: Options) -> int:
    """A graph of nothing but standard ops and products is in every device's form: all its nodes count."""
    return optimize(model, o.device) or len(model.graph)
