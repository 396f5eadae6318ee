"""Semantic ops in standard ONNX ops only: runs in any ONNX runtime, and is the reference for the other tables."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.experts import dense
from onnxmake.model.graph import (
    DOMAIN,
    attribute,
    attributes,
    constant,
    emit,
    emit_many,
    integers,
    replace,
    rotary_width,
)


def floats(node: ir.Node, values, like: ir.Value) -> ir.Value:
    """A constant of `like`'s type."""
    return constant(node.graph, np.array(values, like.dtype.numpy()))


def linear(node: ir.Node) -> None:
    x, weight, *bias = node.inputs
    out = node.outputs[0].shape
    product = emit(node, "MatMul", [x, emit(node, "Transpose", [weight], reversed(weight.shape), perm=[1, 0])], out)
    replace(node, [emit(node, "Add", [product, *bias], out) if bias else product])


def norm_weight(node: ir.Node) -> ir.Value:
    """The norm's weight with the norm's offset added as the weight is read."""
    weight, offset = node.inputs[1], attribute(node, "offset")
    if not offset:
        return weight
    return emit(node, "Weight", [], weight.shape, DOMAIN, weight.dtype, **attributes(weight.producer()), offset=offset)


def layer_norm(node: ir.Node) -> None:
    x, _, *bias = node.inputs
    operands, epsilon = [x, norm_weight(node), *bias], attribute(node, "epsilon")
    replace(node, [emit(node, "LayerNormalization", operands, x.shape, axis=-1, epsilon=epsilon)])


def rms_norm(node: ir.Node) -> None:
    x, shape = node.inputs[0], list(node.inputs[0].shape)
    mean = emit(
        node, "ReduceMean", [emit(node, "Mul", [x, x], shape), integers(node.graph, [-1])], [*shape[:-1], 1], keepdims=1
    )
    root = emit(
        node, "Sqrt", [emit(node, "Add", [mean, floats(node, attribute(node, "epsilon"), x)], mean.shape)], mean.shape
    )
    replace(node, [emit(node, "Mul", [emit(node, "Div", [x, root], shape), norm_weight(node)], shape)])


def is_far(table: ir.Node) -> ir.Value:
    """Bool scalar: whether a position has reached the RotaryTable's threshold."""
    last = emit(table, "ReduceMax", [table.inputs[0]], [], keepdims=0)
    limit = constant(table.graph, np.array(attribute(table, "threshold"), np.int64))
    return emit(table, "GreaterOrEqual", [last, limit], [], dtype=ir.DataType.BOOL)


def rotary_table(node: ir.Node) -> None:
    """Computed in float32 whatever the model's type: a float16 counts exactly to 2048 only."""
    positions, out, float32 = node.inputs[0], node.outputs[0], ir.DataType.FLOAT
    half = [*list(out.shape)[:2], len(attribute(node, "frequencies"))]

    def angles(values) -> ir.Value:
        return constant(node.graph, np.array(values, np.float32))

    frequencies = angles(attribute(node, "frequencies"))
    if "threshold" in node.attributes:
        frequencies = emit(
            node,
            "Where",
            [is_far(node), angles(attribute(node, "far_frequencies")), frequencies],
            frequencies.shape,
            dtype=float32,
        )
    column = emit(
        node,
        "Cast",
        [emit(node, "Unsqueeze", [positions, integers(node.graph, [-1])], [*half[:2], 1])],
        [*half[:2], 1],
        dtype=float32,
        to=int(float32),
    )
    angle = _laid_out(node, emit(node, "Mul", [column, frequencies], half), attribute(node, "layout"))
    replace(node, waves(node, angle, out.dtype))


def _laid_out(node: ir.Node, value: ir.Value, layout: str) -> ir.Value:
    """[B, S, R/2] -> [B, S, R]: each value twice, side by side or in two halves; or once as it is."""
    (batch, seq, half), shape = value.shape, [*list(value.shape)[:2], 2 * value.shape[2]]
    if layout == "once":
        return value
    if layout == "halves":
        return emit(node, "Concat", [value, value], shape, axis=-1)
    single = emit(node, "Unsqueeze", [value, integers(node.graph, [-1])], [batch, seq, half, 1])
    pairs = emit(node, "Concat", [single, single], [batch, seq, half, 2], axis=-1)
    return emit(node, "Reshape", [pairs, integers(node.graph, [0, 0, 2 * half])], shape)


def waves(node: ir.Node, angle: ir.Value, dtype: ir.DataType) -> list[ir.Value]:
    """cos and sin of a float32 angle, times the table's scale, in `dtype`."""
    both, scale = [emit(node, function, [angle], angle.shape) for function in ("Cos", "Sin")], attribute(node, "scale")
    if scale != 1:
        both = [
            emit(node, "Mul", [wave, constant(node.graph, np.array(scale, np.float32))], angle.shape) for wave in both
        ]
    return (
        both
        if dtype == angle.dtype
        else [emit(node, "Cast", [wave], angle.shape, dtype=dtype, to=int(dtype)) for wave in both]
    )


def _slice(node: ir.Node, value: ir.Value, start: int, end: int, step: int = 1) -> ir.Value:
    """Along the last axis."""
    bounds = [integers(node.graph, [i]) for i in (start, end, -1, *([step] if step > 1 else []))]
    return emit(node, "Slice", [value, *bounds], [*list(value.shape)[:-1], (end - start) // step])


def rotary_embedding(node: ir.Node) -> None:
    (x, cos, sin), interleaved = node.inputs, attribute(node, "interleaved")
    shape, width, layout = list(x.shape), rotary_width(node), attribute(node, "layout")
    if (wanted := "neighbours" if interleaved else "halves") != layout:
        once = {"once": (0, width // 2), "halves": (0, width // 2), "neighbours": (0, width, 2)}[layout]
        narrow = [t if layout == "once" else _slice(node, t, *once) for t in (cos, sin)]
        cos, sin = (_laid_out(node, t, wanted) for t in narrow)
    cos, sin = (
        emit(node, "Unsqueeze", [t, integers(node.graph, [1])], [t.shape[0], 1, *list(t.shape)[1:]]) for t in (cos, sin)
    )
    turned = x if width == shape[3] else _slice(node, x, 0, width)
    whole, half, axis, source = turned.shape, [*shape[:3], width // 2], -1, turned
    if interleaved:
        half, axis = [*half, 1], -1
        source = emit(node, "Reshape", [turned, integers(node.graph, [0, 0, 0, -1, 2])], [*shape[:3], width // 2, 2])
    count = 1 if interleaved else width // 2
    first, second = _slice(node, source, 0, count), _slice(node, source, count, 2 * count)
    swapped = emit(node, "Concat", [emit(node, "Neg", [second], half), first], source.shape, axis=axis)
    if interleaved:
        swapped = emit(node, "Reshape", [swapped, integers(node.graph, [0, 0, 0, width])], whole)
    products = [emit(node, "Mul", [a, b], whole) for a, b in ((turned, cos), (swapped, sin))]
    out = emit(node, "Add", products, whole)
    if width < shape[3]:
        out = emit(node, "Concat", [out, _slice(node, x, width, shape[3])], shape, axis=-1)
    replace(node, [out])


def size(node: ir.Node, value: ir.Value, axis: int) -> ir.Value:
    """The dimension as an int64 scalar, read from a graph input that has it where there is one: layers then share it."""
    dim = value.shape[axis]
    if isinstance(dim, int):
        return constant(node.graph, np.array(dim, np.int64))
    for source in node.graph.inputs[:3]:
        if dim in source.shape:
            value, axis = source, list(source.shape).index(dim)
            break
    shape = emit(node, "Shape", [value], [value.shape.rank()], dtype=ir.DataType.INT64)
    return emit(node, "Gather", [shape, constant(node.graph, np.array(axis, np.int64))], [], axis=0)


def _visible(node: ir.Node, q: ir.Value, keys: ir.Value, mask: ir.Value | None) -> ir.Value | None:
    """Bool [B or 1, 1, 1, S or 1, total].

    Which keys each query sees; None: all. Written out per layer; equal ones are merged after lowering.
    """
    graph, boolean, seen = node.graph, ir.DataType.BOOL, None
    if attribute(node, "causal", 1):
        scalar = lambda i: constant(graph, np.array(i, np.int64))  # noqa: E731
        total = size(node, mask, 1) if mask is not None else size(node, keys, 2)
        before = emit(node, "Sub", [total, size(node, q, 2)], [])
        row = emit(node, "Range", [before, total, scalar(1)], ["sequence"])
        column = emit(node, "Range", [scalar(0), total, scalar(1)], ["total"])
        rows = emit(node, "Unsqueeze", [row, integers(graph, [1])], ["sequence", 1])
        columns = emit(node, "Unsqueeze", [column, integers(graph, [0])], [1, "total"])
        seen = emit(node, "LessOrEqual", [columns, rows], ["sequence", "total"], dtype=boolean)
        if window := attribute(node, "window"):
            distance = emit(node, "Sub", [rows, columns], seen.shape)
            near = emit(node, "Less", [distance, scalar(window)], seen.shape, dtype=boolean)
            seen = emit(node, "And", [seen, near], seen.shape)
    if mask is None:
        return seen
    flags = emit(node, "Cast", [mask], mask.shape, dtype=boolean, to=int(boolean))
    kept = emit(node, "Unsqueeze", [flags, integers(graph, [1, 2, 3])], [mask.shape[0], 1, 1, 1, "total"])
    return kept if seen is None else emit(node, "And", [kept, seen], [mask.shape[0], 1, 1, "sequence", "total"])


def attention_inputs(node: ir.Node) -> list[ir.Value | None]:
    """q, k, v, past k, past v, mask, sinks, bias; None for those that are not there."""
    return [*node.inputs, *[None] * 8][:8]


def attention(node: ir.Node) -> None:
    graph, (q, k, v, past_k, past_v, mask, sinks, bias) = node.graph, attention_inputs(node)
    (batch, heads, seq, dim), kv, width = q.shape, k.shape[1], v.shape[3]
    groups, keys, values, present = heads // kv, k, v, []
    if past_k is not None:
        present = [
            emit(node, "Concat", [past, new], [batch, kv, "total", new.shape[3]], axis=2)
            for past, new in ((past_k, k), (past_v, v))
        ]
        keys, values = present
    total = keys.shape[2]
    visible = _visible(node, q, keys, mask)
    keys, values = (
        emit(node, "Unsqueeze", [t, integers(graph, [2])], [batch, kv, 1, total, t.shape[3]]) for t in (keys, values)
    )
    queries = emit(node, "Reshape", [q, integers(graph, [0, kv, groups, -1, dim])], [batch, kv, groups, seq, dim])
    shape = [batch, kv, groups, seq, total]
    turned = emit(node, "Transpose", [keys], [batch, kv, 1, dim, total], perm=[0, 1, 2, 4, 3])
    scores = emit(node, "MatMul", [queries, turned], shape)
    scores = emit(node, "Mul", [scores, floats(node, attribute(node, "scale"), q)], shape)
    if cap := attribute(node, "softcap"):
        limit = floats(node, cap, q)
        ratio = emit(node, "Div", [scores, limit], shape)
        scores = emit(node, "Mul", [emit(node, "Tanh", [ratio], shape), limit], shape)
    if bias is not None:  # [B, 1 or H, S, total]
        tail = list(bias.shape)[2:]
        if bias.shape[1] == 1:
            grouped = emit(node, "Unsqueeze", [bias, integers(graph, [2])], [batch, 1, 1, *tail])
        else:
            lengths = emit(node, "Shape", [bias], [2], dtype=ir.DataType.INT64, start=2)
            target = emit(node, "Concat", [integers(graph, [0, kv, groups]), lengths], [5], axis=0)
            grouped = emit(node, "Reshape", [bias, target], [batch, kv, groups, *tail])
        scores = emit(node, "Add", [scores, grouped], shape)
    if visible is not None:
        scores = emit(node, "Where", [visible, scores, floats(node, np.finfo(np.float16).min, q)], shape, dtype=q.dtype)
    if sinks is not None:  # one more logit per head that takes probability and gives nothing
        column = emit(node, "Reshape", [sinks, integers(graph, [1, kv, groups, 1, 1])], [1, kv, groups, 1, 1])
        largest = emit(node, "ReduceMax", [scores, integers(graph, [-1])], [*shape[:4], 1], keepdims=1)
        target = emit(node, "Shape", [largest], [5], dtype=ir.DataType.INT64)
        sink = emit(node, "Expand", [column, target], [*shape[:4], 1])
        scores = emit(node, "Concat", [scores, sink], [*shape[:4], "total + 1"], axis=-1)
    weights = emit(node, "Softmax", [scores], scores.shape, axis=-1)
    if sinks is not None:
        bounds = [integers(graph, [i]) for i in (0, -1, -1)]
        weights = emit(node, "Slice", [weights, *bounds], shape)
    mixed = emit(node, "MatMul", [weights, values], [batch, kv, groups, seq, width])
    flat = emit(node, "Reshape", [mixed, integers(graph, [0, heads, -1, width])], [batch, heads, seq, width])
    replace(node, [emit(node, "Transpose", [flat], [batch, seq, heads, width], perm=[0, 2, 1, 3]), *present])


def linear_attention(node: ir.Node) -> None:
    """A Scan over tokens, in float32 whatever the model's type; its body reads nothing from outside."""
    float32, dtype = ir.DataType.FLOAT, node.inputs[2].dtype

    def cast(value: ir.Value | None, to: ir.DataType) -> ir.Value | None:
        return (
            value
            if value is None or value.dtype == to
            else emit(node, "Cast", [value], value.shape, dtype=to, to=int(to))
        )

    q, k, v, decay, state, beta = [cast(value, float32) for value in [*node.inputs, None][:6]]
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
    replace(node, [cast(mixed, dtype), cast(last, dtype)])


def split_to_sequence(node: ir.Node) -> None:
    """Split, where each piece is taken by a known number: sequences have kernels on the CPU only."""
    known, axis = ir.convenience.get_const_tensor, attribute(node, "axis", 0)
    (x, split), takers = node.inputs, [user for user, _ in node.outputs[0].uses()]
    chosen = [known(user.inputs[1]) for user in takers if user.op_type == "SequenceAt"]
    length = list(x.shape)[axis]
    if None in (known(split), *chosen) or len(chosen) < len(takers) or not isinstance(length, int):
        return
    sizes = known(split).numpy()
    if not sizes.ndim:
        sizes = np.diff([*range(0, length, int(sizes)), length])
    shapes = [list(x.shape) for _ in sizes]
    for shape, size in zip(shapes, sizes):
        shape[axis] = int(size)
    pieces = emit_many(node, "Split", [x, integers(node.graph, sizes.tolist())], shapes, axis=axis)
    for user, number in zip(takers, chosen):
        replace(user, [pieces[int(number.numpy())]])
    node.graph.remove(node, safe=True)


TABLE = {
    "Linear": linear,
    "RMSNorm": rms_norm,
    "LayerNorm": layer_norm,
    "RotaryTable": rotary_table,
    "RotaryEmbedding": rotary_embedding,
    "Attention": attention,
    "LinearAttention": linear_attention,
    "Experts": dense,
    "::SplitToSequence": split_to_sequence,
}
PROVIDER_OPTIONS: list[dict[str, dict[str, str]]] = []
