"""A graph of 16 bit floats computed in float32, every result rounded to its type: what the same arithmetic gives where the
CPU has no kernels for it, and without the wider sums that its kernels keep from one operation to the next."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute

HALVES = {
    ir.DataType.FLOAT16: ("fp16", 2**-11),
    ir.DataType.BFLOAT16: ("bf16", 2**-8),
}  # name, largest relative rounding
FLOAT = ir.DataType.FLOAT


def _wide(tensor: ir.TensorProtocol) -> ir.Tensor:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": int(dtype)})
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
    return node


def _round(value: ir.Value, half: ir.DataType) -> None:
    """Let all that reads the value read it as float32, rounded to `half`; a reference to weights is of that type already."""
    node = value.producer()
    if node.op_type in ("Weight", "QuantizedWeight"):
        casts = [_cast(value, FLOAT)]
    else:
        value.type = ir.TensorType(FLOAT)
        narrow = _cast(value, half)
        casts = [narrow, _cast(narrow.outputs[0], FLOAT)]
    wide = casts[-1].outputs[0]
    if value.is_graph_output():
        wide.name, value.name = value.name, None
    ir.convenience.replace_all_uses_with(value, wide, replace_graph_outputs=True)
    casts[0].replace_input_with(0, value)
    node.graph.insert_after(node, casts)


def round_results(graph: ir.Graph, half: ir.DataType) -> None:
    """Make every value of type `half` a float32 that was rounded to it; inputs and outputs become float32."""
    for value in graph.initializers.values():
        if value.dtype == half:
            value.const_value, value.type = _wide(value.const_value), ir.TensorType(FLOAT)
    for value in graph.inputs:
        if value.dtype == half:
            value.type = ir.TensorType(FLOAT)
    for node in list(graph):
        if node.op_type == "Cast" and attribute(node, "to") == half:
            node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
        if (held := attribute(node, "value")) is not None and getattr(held, "dtype", None) == half:
            node.attributes["value"] = ir.AttrTensor("value", _wide(held))
        for value in node.outputs:
            if value.dtype == half:
                _round(value, half)
