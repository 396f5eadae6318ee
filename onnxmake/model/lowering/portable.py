"""Semantic ops in standard ONNX ops only: runs in any ONNX runtime, and is the reference for the other tables."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute, constant, emit, emit_many, integers, replace


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
    return emit(
        node,
        "Weight",
        [],
        weight.shape,
        "onnxmake",
        weight.dtype,
        parts=attribute(weight.producer(), "parts"),
        offset=offset,
    )


def rms_norm(node: ir.Node) -> None:
    x, shape = node.inputs[0], list(node.inputs[0].shape)
    mean = emit(
        node, "ReduceMean", [emit(node, "Mul", [x, x], shape), integers(node.graph, [-1])], [*shape[:-1], 1], keepdims=1
    )
    root = emit(
        node, "Sqrt", [emit(node, "Add", [mean, floats(node, attribute(node, "epsilon"), x)], mean.shape)], mean.shape
    )
    replace(node, [emit(node, "Mul", [emit(node, "Div", [x, root], shape), norm_weight(node)], shape)])


def rotary_table(node: ir.Node) -> None:
    """Computed in float32 whatever the model's type: a float16 counts exactly to 2048 only."""
    positions, out, float32 = node.inputs[0], node.outputs[0], ir.DataType.FLOAT
    half = [*list(out.shape)[:2], out.shape[2] // 2]

    def angles(values) -> ir.Value:
        return constant(node.graph, np.array(values, np.float32))

    frequencies = angles(attribute(node, "frequencies"))
    if "threshold" in node.attributes:
        last = emit(node, "ReduceMax", [positions], [], keepdims=0)
        far = emit(
            node,
            "GreaterOrEqual",
            [last, constant(node.graph, np.array(attribute(node, "threshold"), np.int64))],
            [],
            dtype=ir.DataType.BOOL,
        )
        frequencies = emit(
            node,
            "Where",
            [far, angles(attribute(node, "far_frequencies")), frequencies],
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
    angle = emit(node, "Mul", [column, frequencies], half)
    angle = emit(node, "Concat", [angle, angle], out.shape, axis=-1)
    replace(node, waves(node, angle, out.dtype))


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


def rotary_embedding(node: ir.Node) -> None:
    x, cos, sin = node.inputs
    shape, width = list(x.shape), cos.shape[-1]

    def part(start: int, end: int) -> ir.Value:
        bounds = [integers(node.graph, [i]) for i in (start, end, -1)]
        return emit(node, "Slice", [x, *bounds], [*shape[:3], end - start])

    cos, sin = (
        emit(node, "Unsqueeze", [t, integers(node.graph, [1])], [t.shape[0], 1, *list(t.shape)[1:]]) for t in (cos, sin)
    )
    turned = x if width == shape[3] else part(0, width)
    swapped = emit(
        node,
        "Concat",
        [emit(node, "Neg", [part(width // 2, width)], [*shape[:3], width // 2]), part(0, width // 2)],
        turned.shape,
        axis=-1,
    )
    out = emit(
        node,
        "Add",
        [emit(node, "Mul", [turned, cos], turned.shape), emit(node, "Mul", [swapped, sin], turned.shape)],
        turned.shape,
    )
    replace(node, [out if width == shape[3] else emit(node, "Concat", [out, part(width, shape[3])], shape, axis=-1)])


def _visible(node: ir.Node) -> ir.Value:
    """Bool [B, 1, 1, S, total].

    Which keys each query sees. Written out per layer; equal ones are merged after lowering.
    """
    graph, (q, _, _, past, _, mask, *_) = node.graph, node.inputs
    boolean, scalar = ir.DataType.BOOL, lambda i: constant(graph, np.array(i, np.int64))

    def length(value: ir.Value, axis: int) -> ir.Value:
        return emit(
            node,
            "Gather",
            [emit(node, "Shape", [value], [value.shape.rank()], dtype=ir.DataType.INT64), scalar(axis)],
            [],
            axis=0,
        )

    before, total = length(past, 2), length(mask, 1)
    rows = emit(
        node,
        "Unsqueeze",
        [emit(node, "Range", [before, total, scalar(1)], ["sequence"]), integers(graph, [1])],
        ["sequence", 1],
    )
    columns = emit(
        node,
        "Unsqueeze",
        [emit(node, "Range", [scalar(0), total, scalar(1)], ["total"]), integers(graph, [0])],
        [1, "total"],
    )
    seen = emit(node, "LessOrEqual", [columns, rows], ["sequence", "total"], dtype=boolean)
    if window := attribute(node, "window"):
        near = emit(
            node, "Less", [emit(node, "Sub", [rows, columns], seen.shape), scalar(window)], seen.shape, dtype=boolean
        )
        seen = emit(node, "And", [seen, near], seen.shape)
    kept = emit(
        node,
        "Unsqueeze",
        [emit(node, "Cast", [mask], mask.shape, dtype=boolean, to=int(boolean)), integers(graph, [1, 2, 3])],
        [q.shape[0], 1, 1, 1, "total"],
    )
    return emit(node, "And", [kept, seen], [q.shape[0], 1, 1, "sequence", "total"])


def attention(node: ir.Node) -> None:
    graph, (q, k, v, past_k, past_v, _, *sinks) = node.graph, node.inputs
    (batch, heads, seq, dim), kv, width = q.shape, k.shape[1], v.shape[3]
    groups = heads // kv
    present = [
        emit(node, "Concat", [past, new], [batch, kv, "total", new.shape[3]], axis=2)
        for past, new in ((past_k, k), (past_v, v))
    ]
    keys, values = (
        emit(node, "Unsqueeze", [t, integers(graph, [2])], [batch, kv, 1, "total", t.shape[3]]) for t in present
    )
    queries = emit(node, "Reshape", [q, integers(graph, [0, kv, groups, -1, dim])], [batch, kv, groups, seq, dim])
    shape = [batch, kv, groups, seq, "total"]
    scores = emit(
        node,
        "MatMul",
        [queries, emit(node, "Transpose", [keys], [batch, kv, 1, dim, "total"], perm=[0, 1, 2, 4, 3])],
        shape,
    )
    scores = emit(node, "Mul", [scores, floats(node, attribute(node, "scale"), q)], shape)
    if cap := attribute(node, "softcap"):
        limit = floats(node, cap, q)
        scores = emit(
            node, "Mul", [emit(node, "Tanh", [emit(node, "Div", [scores, limit], shape)], shape), limit], shape
        )
    scores = emit(
        node, "Where", [_visible(node), scores, floats(node, np.finfo(np.float16).min, q)], shape, dtype=q.dtype
    )
    if sinks:  # one more logit per head that takes probability and gives nothing
        sink = emit(
            node,
            "Expand",
            [
                emit(node, "Reshape", [sinks[0], integers(graph, [1, kv, groups, 1, 1])], [1, kv, groups, 1, 1]),
                emit(
                    node,
                    "Shape",
                    [emit(node, "ReduceMax", [scores, integers(graph, [-1])], [*shape[:4], 1], keepdims=1)],
                    [5],
                    dtype=ir.DataType.INT64,
                ),
            ],
            [*shape[:4], 1],
        )
        scores = emit(node, "Concat", [scores, sink], [*shape[:4], "total + 1"], axis=-1)
    weights = emit(node, "Softmax", [scores], scores.shape, axis=-1)
    if sinks:
        weights = emit(
            node, "Slice", [weights, integers(graph, [0]), integers(graph, [-1]), integers(graph, [-1])], shape
        )
    mixed = emit(node, "MatMul", [weights, values], [batch, kv, groups, seq, width])
    flat = emit(node, "Reshape", [mixed, integers(graph, [0, heads, -1, width])], [batch, heads, seq, width])
    replace(node, [emit(node, "Transpose", [flat], [batch, seq, heads, width], perm=[0, 2, 1, 3]), *present])


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
    "RotaryTable": rotary_table,
    "RotaryEmbedding": rotary_embedding,
    "Attention": attention,
    "::SplitToSequence": split_to_sequence,
}
PROVIDER_OPTIONS: list[dict[str, dict[str, str]]] = []
