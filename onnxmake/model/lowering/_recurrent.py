"""Recurrent layers by ONNX Runtime's own operators: linear attention, and convolutions that carry a state."""

import onnx_ir as ir

from onnxmake.model.graph import CONTRIB, array, attribute, emit, emit_many, integers, produced_by, replace
from onnxmake.model.lowering._values import cast
from onnxmake.model.shapes import same

END = 2**63 - 1  # of a Slice: all that is left


def linear_attention(node: ir.Node) -> None:
    """LinearAttention over [B, S, H * D], in float32 whatever the model's type: its state has its inputs' type."""
    dtype, graph = node.inputs[2].dtype, node.graph
    q, k, v, decay, state, beta = [cast(node, value, ir.DataType.FLOAT) for value in [*node.inputs, None][:6]]
    batch, seq, heads, width = v.shape

    def packed(value: ir.Value) -> ir.Value:
        if value.shape.rank() == 3:
            return value
        whole = value.shape[2] * value.shape[3]
        return emit(node, "Reshape", [value, integers(graph, [0, 0, whole])], [batch, seq, whole])

    out, last = emit_many(
        node,
        "LinearAttention",
        [packed(q), packed(k), packed(v), state, packed(decay), *([] if beta is None else [beta])],
        [[batch, seq, heads * width], state.shape],
        CONTRIB,
        [v.dtype] * 2,
        q_num_heads=heads,
        kv_num_heads=heads,
        scale=attribute(node, "scale"),
        update_rule="gated" if beta is None else "gated_delta",
    )
    out = emit(node, "Reshape", [out, integers(graph, [0, 0, heads, width])], v.shape)
    replace(node, [cast(node, out, dtype), cast(node, last, dtype)])


def _user(value: ir.Value) -> ir.Node | None:
    """The node that alone reads the value."""
    users = [node for node, _ in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _columns(node: ir.Node | None, like: ir.Value | None = None) -> tuple[int | None, int | None]:
    """Start and end of a Slice of [B, C, S] along S, None where they are not known; of no other node, nor of a slice whose
    S is another than that of `like`."""
    if node is None or node.op_type != "Slice" or [array(v) for v in node.inputs[3:]] not in ([2], [2, 1]):
        return None, None
    if like is not None and not same(ir.Shape(node.outputs[0].shape[2:]), ir.Shape(like.shape[2:])):
        return None, None
    start, end = (array(value) for value in node.inputs[1:3])
    return (None if start is None else int(start.item())), (None if end is None else int(end.item()))


def causal_convolution(node: ir.Node) -> None:
    """CausalConvWithState for a convolution, channel by channel, of state and input behind each other, of whose columns the
    input's are taken; with SiLU inside where it comes next. The graph's state becomes as narrow as the kernel lets it.
    """
    joined, weight, bias = [*node.inputs, None][:3]
    concat, reach = produced_by(joined, "Concat"), weight.shape[-1] - 1
    plain = {"pads": [reach, reach], "strides": [1], "dilations": [1]}
    if concat is None or len(concat.inputs) != 2 or list(weight.shape) != [attribute(node, "group", 1), 1, reach + 1]:
        return
    state, x = concat.inputs
    if any([*attribute(node, name, [])] != value for name, value in plain.items()) or _user(state) is not concat:
        return
    wide, others = state.shape[2], [user for user, _ in joined.uses() if user is not node]
    if not state.is_graph_input() or wide < reach or len(others) != 1 or _columns(others[0]) != (-wide, END):
        return  # the state of the next call is the last columns
    first, settings = _user(node.outputs[0]), {}
    if _columns(first, joined)[0] != 0 or joined.dtype == ir.DataType.BFLOAT16:
        return  # it drops what only the padding on the right is in
    last = _user(first.outputs[0])
    if last is not None and last.op_type == "QuickGelu" and attribute(last, "alpha") == 1:
        last, settings = _user(last.outputs[0]), {"activation": "silu"}
    if _columns(last, x)[1] != END:
        return
    state.shape = ir.Shape([*list(state.shape)[:2], reach])
    operands = [x, weight, None if (known := array(bias)) is not None and not known.any() else bias, state]
    made = emit_many(node, "CausalConvWithState", operands, [x.shape, state.shape], CONTRIB, **settings)
    for old, new in zip((last, others[0]), made):
        replace(old, [new])
