"""Mixtures of experts as ONNX ops: in standard ops, every token through every expert; and as the runtime's own op."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import CONTRIB, array, attribute, attributes, constant, emit, integers, produced_by, replace
from onnxmake.model.shapes import same

NOWHERE = -1e4  # the router's word for an expert that is not chosen: its exponential is zero in any type


def parts(node: ir.Node) -> list[ir.Value | None]:
    """hidden [T, H], index [T, K], weights [T, K], gate_up [E, 2I, H], down [E, H, I], their biases or None."""
    return [*node.inputs, None, None][:7]


def _scattered(node: ir.Node, values: ir.Value, fill: float) -> ir.Value:
    """[T, E]: the values [T, K] at their experts' places, `fill` elsewhere."""
    hidden, index, _, stack, *_ = parts(node)
    graph, experts = node.graph, stack.shape[0]
    tokens = emit(node, "Shape", [hidden], [1], dtype=ir.DataType.INT64, start=0, end=1)
    shape = emit(node, "Concat", [tokens, integers(graph, [experts])], [2], axis=0)
    value = ir.tensor(np.array([fill], values.dtype.numpy()))
    blank = emit(node, "ConstantOfShape", [shape], [hidden.shape[0], experts], dtype=values.dtype, value=value)
    return emit(node, "ScatterElements", [blank, index, values], blank.shape, axis=1)


def dense(node: ir.Node) -> None:
    """Standard ops, for every device; the cost of all experts for each token."""
    hidden, _, weights, gate_up, down, first_bias, second_bias = parts(node)
    graph, (tokens, width), (experts, double, _) = node.graph, hidden.shape, gate_up.shape

    def number(value: float) -> ir.Value:
        return constant(graph, np.array(value, hidden.dtype.numpy()))

    def product(x: ir.Value, stack: ir.Value, bias: ir.Value | None) -> ir.Value:
        rows, inner = list(stack.shape)[1:]
        turned = emit(node, "Transpose", [stack], [experts, inner, rows], perm=[0, 2, 1])
        out = emit(node, "MatMul", [x, turned], [experts, tokens, rows])
        if bias is None:
            return out
        return emit(
            node, "Add", [out, emit(node, "Unsqueeze", [bias, integers(graph, [1])], [experts, 1, rows])], out.shape
        )

    both = product(emit(node, "Unsqueeze", [hidden, integers(graph, [0])], [1, tokens, width]), gate_up, first_bias)
    half = [experts, tokens, double // 2]
    step, places = (2, (0, 1)) if attribute(node, "interleaved") else (1, (0, double // 2))
    ends = (double, double) if step == 2 else (double // 2, double)
    gate, up = (
        emit(node, "Slice", [both, *(integers(graph, [i]) for i in (start, end, -1, step))], half)
        for start, end in zip(places, ends)
    )
    if limit := attribute(node, "limit"):
        gate = emit(node, "Min", [gate, number(limit)], half)
        up = emit(node, "Clip", [up, number(-limit), number(limit)], half)
    alpha, beta = attribute(node, "alpha"), attribute(node, "beta")
    wave = emit(node, "Sigmoid", [gate if alpha == 1 else emit(node, "Mul", [gate, number(alpha)], half)], half)
    inner = emit(node, "Mul", [gate, wave], half)
    inner = emit(node, "Mul", [inner, emit(node, "Add", [up, number(beta)], half) if beta else up], half)
    out = product(inner, down, second_bias)
    routing = emit(node, "Transpose", [_scattered(node, weights, 0.0)], [experts, tokens], perm=[1, 0])
    share = emit(node, "Unsqueeze", [routing, integers(graph, [2])], [experts, tokens, 1])
    weighed = emit(node, "Mul", [out, share], out.shape)
    replace(node, [emit(node, "ReduceSum", [weighed, integers(graph, [0])], hidden.shape, keepdims=0)])


def _logits(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The router's scores [T, E], where the weights are their softmax, and whether the chosen weights add up to 1.

    Softmax before or after the choice of the K largest, and with or without a division by the sum, is one and the same
    but for a factor.
    """
    _, index, weights, *_ = parts(node)
    top = produced_by(index, "TopK")
    if top is None or index.index() != 1 or attribute(top, "axis", -1) not in (-1, 1):
        return None
    chosen = top.outputs[0]
    after = produced_by(weights, "Softmax")
    if after is not None and after.inputs[0] is chosen:
        return top.inputs[0], True
    before, division = produced_by(top.inputs[0], "Softmax"), produced_by(weights, "Div")
    if before is None or attribute(before, "axis", -1) not in (-1, 1):
        return None
    if weights is chosen:
        return before.inputs[0], False
    total = None if division is None else produced_by(division.inputs[1], "ReduceSum")
    divided = total is not None and division.inputs[0] is chosen and total.inputs[0] is chosen
    return (before.inputs[0], True) if divided and array(total.inputs[1]).tolist() == [-1] else None


def routed(node: ir.Node) -> tuple[ir.Value, ir.Value | None, dict]:
    """Router scores [T, E], the sum of the weights [T, 1] if it is not 1, and the attributes that MoE and QMoE share.

    The op takes the K largest scores and shares out by their softmax; the result is then multiplied by the sum. Where the weights are no softmax, their logarithms serve as scores: any routing with positive weights.
    """
    hidden, index, weights, *_ = parts(node)
    total = None
    logits, whole = _logits(node) or (None, False)
    if not whole:
        total = emit(node, "ReduceSum", [weights, integers(node.graph, [-1])], [hidden.shape[0], 1], keepdims=1)
    scores = logits if logits is not None else _scattered(node, emit(node, "Log", [weights], weights.shape), NOWHERE)
    settings = {
        "k": index.shape[1],
        "activation_type": "swiglu",
        "swiglu_fusion": 1,  # gate and up rows alternate
        "activation_alpha": attribute(node, "alpha"),
        "activation_beta": attribute(node, "beta"),
        "normalize_routing_weights": 1,
    }
    if limit := attribute(node, "limit"):
        settings["swiglu_limit"] = limit
    return scores, total, settings


def alternating(node: ir.Node, stack: ir.Node) -> dict | None:
    """Attributes of a reference to the Weight `stack`, whose gate and up rows alternate; None where a bias would not."""
    reference = attributes(stack)
    if not attribute(node, "interleaved"):
        if parts(node)[5] is not None:
            return None
        reference["alternate"] = 1
    return reference


def _unrolled(node: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """The [B, S, H] whose rows are the node's tokens, and the Reshape that makes it of them again; None if more is done."""
    flat, users = produced_by(node.inputs[0], "Reshape"), [user for user, _ in node.outputs[0].uses()]
    if flat is None or [user.op_type for user in users] != ["Reshape"]:
        return None
    x, shape = flat.inputs[0], users[0].outputs[0].shape
    return (x, users[0]) if same(x.shape, shape) and x.shape.rank() == 3 else None


def mixture(
    node: ir.Node, op: str, operands: list[ir.Value | None], settings: dict, total: ir.Value | None
) -> ir.Value:
    """MoE or QMoE, and the sum that it leaves out. It takes tokens in their batch, too."""
    hidden = node.inputs[0]
    if total is None and (unrolled := _unrolled(node)):
        x, back = unrolled
        out = emit(node, op, [x, *operands[1:]], x.shape, CONTRIB, **settings)
        replace(back, [out])
        return out
    out = emit(node, op, operands, hidden.shape, CONTRIB, **settings)
    return out if total is None else emit(node, "Mul", [out, total], hidden.shape)
