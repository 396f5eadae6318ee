"""Query, key and value of one product in place of three."""

import onnx_ir as ir

from onnxmake.model.graph import DOMAIN, attribute, emit, emit_many, integers, last_axis_slice, produced_by, replace
from onnxmake.model.lowering._attention import tokens_first

# Operators of one stream that stand between a projection and attention.
BETWEEN = ("Reshape", "Transpose", "RMSNorm", "LayerNorm", "RotaryEmbedding")


def packed(node: ir.Node, values: list[ir.Value]) -> list[ir.Value | None]:
    """q, k and v [B, S, heads * D], or the one product that they are parts of; it takes the place of three Linear ops."""
    streams = [tokens_first(node, x) for x in values]
    pieces = [last_axis_slice(x) for x in streams]
    if None not in pieces and len({x for x, *_ in pieces}) == 1:
        whole, edges = pieces[0][0], [edge for _, *piece in pieces for edge in piece]
        if edges[0] == 0 and edges[1:5:2] == edges[2::2] and edges[5] == whole.shape[-1]:
            return [whole, None, None]
    joined = _joined([produced_by(x, "Linear", DOMAIN) for x in streams])
    if joined is not None:
        return [joined, None, None]
    return [tokens_first(node, x) for x in values] if _split(node, values) else streams


def _split(node: ir.Node, values: list[ir.Value]) -> bool:
    """Let q, k and v that are normed or turned before they meet be parts of one product."""
    linears = []
    for value in values:
        while (maker := value.producer()) is not None and maker.op_type in BETWEEN:
            value = maker.inputs[0]
        linears.append(produced_by(value, "Linear", DOMAIN))
    joined = _joined(linears)
    if joined is None:
        return False
    shapes = [linear.outputs[0].shape for linear in linears]
    sizes = integers(node.graph, [shape[2] for shape in shapes])
    parts = emit_many(linears[0], "Split", [joined, sizes], shapes, dtypes=[joined.dtype] * 3, axis=-1)
    for linear, part in zip(linears, parts):
        replace(linear, [part])
    return True


def _joined(linears: list[ir.Node | None]) -> ir.Value | None:
    """One Linear in place of some that read the same input and feed nothing else; None if they are not such."""
    if None in linears or any(len(n.outputs[0].uses()) != 1 for n in linears):
        return None
    if len({(n.inputs[0], len(n.inputs)) for n in linears}) != 1:
        return None
    x, before, operands = linears[0].inputs[0], linears[0], []
    if x.shape.rank() != 3:
        return None
    for same in list(zip(*(n.inputs for n in linears)))[1:]:
        weights = [produced_by(v, "Weight", DOMAIN) for v in same]
        if None in weights or any({"offset", "rows", "transposed"} & set(w.attributes) for w in weights):
            return None
        shape, parts = [sum(v.shape[0] for v in same), *list(same[0].shape)[1:]], []
        for weight in weights:
            parts += attribute(weight, "parts")
        operands.append(emit(before, "Weight", [], shape, DOMAIN, same[0].dtype, parts=parts))
    return emit(before, "Linear", [x, *operands], [*list(x.shape)[:2], operands[0].shape[0]], DOMAIN)
