"""From a captured graph to a device's: every semantic op lowered but those that quantisers read."""

import onnx_ir as ir

from onnxmake.model.graph import prune
from onnxmake.model.lowering import Device, lower
from onnxmake.model.simplify import simplify


def optimize(model: ir.Model, device: Device) -> int:
    """Lower all but Linear and Experts, which quantisers read, and drop an input that nothing reads. Returns the number of places."""
    count = lower(model.graph, device, keep={"Linear", "Experts"})
    simplify(model)
    if not any(v.uses() for v in model.graph.inputs if v.name == "position_ids"):
        model.graph.inputs[:] = [v for v in model.graph.inputs if v.name != "position_ids"]
    prune(model.graph)
    return count
