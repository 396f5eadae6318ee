"""Linear attention in standard ops: a Scan over tokens."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, emit, emit_many, replace
from onnxmake.model.lowering._values import cast, floats


def linear_attention(node: ir.Node) -> None:
    """A Scan over tokens, in float32 whatever the model's type; its body reads nothing from outside."""
    float32, dtype = ir.DataType.FLOAT, node.inputs[2].dtype

    q, k, v, decay, state, beta = [cast(node, value, float32) for value in [*node.inputs, None][:6]]
    (batch, _, heads, keys), values = k.shape, v.shape[3]
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="token")

    def argument(name: str, *shape) -> ir.Value:
        value = ir.Value(name=f"token_{name}", shape=ir.Shape(shape), type=ir.TensorType(float32))
        graph.inputs.append(value)
        return value

    def step(op: str, inputs: list[ir.Value], shape, **attributes) -> ir.Value:
        made = ir.node(op, inputs, attributes=attributes)
        out = made.outputs[0]
        out.name, out.shape, out.type = f"token_{len(graph)}", ir.Shape(shape), ir.TensorType(float32)
        graph.append(made)
        return out

    def axes(*numbers: int) -> ir.Value:
        tensor = ir.tensor(np.array(numbers, np.int64))
        out = ir.node("Constant", [], attributes={"value": tensor})
        out.outputs[0].name = f"token_{len(graph)}"
        out.outputs[0].shape, out.outputs[0].type = ir.Shape([len(numbers)]), ir.TensorType(ir.DataType.INT64)
        graph.append(out)
        return out.outputs[0]

    by_channel = decay.shape.rank() == 4
    square = [batch, heads, keys, values]
    old = argument("state", *square)
    query, key, value = (argument(n, batch, heads, w) for n, w in (("q", keys), ("k", keys), ("v", values)))
    channels = [keys] if by_channel else []
    fade = step("Exp", [argument("decay", batch, heads, *channels)], [batch, heads, *channels])
    fade = step(
        "Unsqueeze", [fade, axes(3) if by_channel else axes(2, 3)], [batch, heads, keys if by_channel else 1, 1]
    )
    column, row = [batch, heads, keys, 1], [batch, heads, 1, values]
    faded = step("Mul", [old, fade], square)
    key = step("Unsqueeze", [key, axes(3)], column)
    value = step("Unsqueeze", [value, axes(2)], row)
    if beta is not None:
        share = step("Unsqueeze", [argument("beta", batch, heads), axes(2, 3)], [batch, heads, 1, 1])
        kept = step("ReduceSum", [step("Mul", [faded, key], square), axes(2)], row, keepdims=1)
        value = step("Mul", [step("Sub", [value, kept], row), share], row)
    new = step("Add", [faded, step("Mul", [key, value], square)], square)
    query = step("Unsqueeze", [query, axes(3)], column)
    out = step("ReduceSum", [step("Mul", [new, query], square), axes(2)], [batch, heads, values], keepdims=0)
    graph.outputs.extend([new, out])
    streams = [q, k, v, decay, *([] if beta is None else [beta])]
    last, mixed = emit_many(
        node,
        "Scan",
        [state, *streams],
        [state.shape, v.shape],
        dtypes=[float32] * 2,
        body=ir.AttrGraph("body", graph),
        num_scan_inputs=len(streams),
        scan_input_axes=[1] * len(streams),
        scan_output_axes=[1],
    )
    scale = attribute(node, "scale")
    mixed = mixed if scale == 1 else emit(node, "Mul", [mixed, floats(node, scale, mixed)], v.shape)
    replace(node, [cast(node, mixed, dtype), cast(node, last, dtype)])
