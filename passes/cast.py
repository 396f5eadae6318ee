"""Change the float type of weights, activations, inputs and outputs. Comes before optimize and quantisers.

Invariant: the same graph over another float type; rotary tables are still computed in float32. Whatever type the
checkpoint has, each weight is rounded once, from the checkpoint's values.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model.graph import CONTRIB, DOMAIN, attribute

ENVIRONMENT = "cpu"
TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

LARGEST = {ir.DataType.FLOAT16: 65504.0}


@dataclass(frozen=True)
class Options:
    dtype: Literal["fp32", "fp16", "bf16"]


def _tensor(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.Tensor:
    """Round to `dtype`; what it cannot hold becomes its largest value (masks are written as the lowest float32)."""
    limit = LARGEST.get(dtype, np.inf)
    return ir.tensor(
        np.clip(tensor.numpy().astype(np.float32), -limit, limit).astype(dtype.numpy()), dtype=dtype, name=tensor.name
    )


def rewrite(model: ir.Model, o: Options) -> int:
    graph, new, count = model.graph, TYPES[o.dtype], 0
    if any(node.domain == CONTRIB for node in graph) or not any(node.domain == DOMAIN for node in graph):
        raise PassError(
            "cast came after optimize or a quantiser.",
            "It changes types while the graph is still of semantic ops.",
            "Move cast up, right behind export.",
        )
    old = next((v.dtype for v in graph.outputs if v.name == "logits"), graph.outputs[0].dtype)
    if old == new:
        return 0
    for value in graph.initializers.values():
        if value.dtype == old:
            value.const_value = _tensor(value.const_value, new)
    for value in {*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)}:
        if value.dtype == old:
            value.type = ir.TensorType(new)
            count += 1
    for node in graph:
        if node.op_type == "Cast" and attribute(node, "to") == old:
            node.attributes["to"] = ir.AttrInt64("to", int(new))
        elif node.op_type == "Constant" and "value" in node.attributes and node.attributes["value"].value.dtype == old:
            node.attributes["value"] = ir.AttrTensor("value", _tensor(node.attributes["value"].value, new))
        elif node.op_type == "Constant" and "value_float" in node.attributes and node.outputs[0].dtype == new:
            node.attributes["value"] = ir.AttrTensor(
                "value", _tensor(ir.tensor(np.float32(node.attributes.pop("value_float").value)), new)
            )
    return count
