"""Small patterns of traced graphs that semantic ops can say themselves."""

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript.optimizer import fold_constants

from onnxmake.model.graph import DOMAIN, array, attribute, emit, nodes, produced_by, prune, replace


def constants(model: ir.Model) -> None:
    """Compute what depends on no input and no weight; weights must be nodes by now, or their zeros would be baked in."""
    fold_constants(model, onnx_shape_inference=False, output_size_limit=1 << 16)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    prune(model.graph)


def transposed_weights(graph: ir.Graph) -> None:
    """Transpose(Weight) of a matrix, or of each in a stack, is a Weight that is stored the other way round."""
    for node in nodes(graph, "Transpose"):
        weight = produced_by(node.inputs[0], "Weight", DOMAIN)
        if weight is None or list(attribute(node, "perm")) not in ([1, 0], [0, 2, 1]):
            continue
        attributes = {name: a.value for name, a in weight.attributes.items()}
        matrices = 1 if len(node.outputs[0].shape) == 2 else node.outputs[0].shape[0]
        if "rows" in attributes or len(attributes["parts"]) not in (
            1,
            matrices,
        ):  # a part is no whole number of matrices
            continue
        attributes["transposed"] = 1 - attributes.pop("transposed", 0)
        attributes = {name: value for name, value in attributes.items() if value or name != "transposed"}
        replace(node, [emit(node, "Weight", [], node.outputs[0].shape, DOMAIN, weight.outputs[0].dtype, **attributes)])
    prune(graph)


def _part(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """x, start and end where the value is a slice of x along the last axis."""
    node = produced_by(value, "Slice")
    if node is None or node.inputs[0].shape is None:
        return None
    constants = [array(v) for v in node.inputs[1:]]
    if any(c is None or c.size != 1 for c in constants):
        return None
    start, end, axis, step = [*(int(c.item()) for c in constants), 1][:4]
    x, rank = node.inputs[0], node.inputs[0].shape.rank()
    width = x.shape[-1]
    if axis % rank != rank - 1 or step != 1 or not isinstance(width, int):
        return None
    return x, start % width, min(end, width) if end >= 0 else width + end


def partial_rotations(graph: ir.Graph) -> None:
    """Concat(RotaryEmbedding(x[..., :R]), x[..., R:]) is RotaryEmbedding(x), which lets the rest pass."""
    for node in nodes(graph, "Concat"):
        if node.outputs[0].shape is None or len(node.inputs) != 2:
            continue
        rank = node.outputs[0].shape.rank()
        if attribute(node, "axis") % rank != rank - 1:
            continue
        turn, rest = produced_by(node.inputs[0], "RotaryEmbedding", DOMAIN), _part(node.inputs[1])
        first = None if turn is None else _part(turn.inputs[0])
        if None in (turn, rest, first) or first[0] is not rest[0] or (first[1], first[2]) != (0, rest[1]):
            continue
        width = turn.inputs[1].shape[-1] * (2 if attribute(turn, "layout") == "once" else 1)
        if rest[2] != rest[0].shape[-1] or width != first[2]:
            continue
        attributes = {name: a.value for name, a in turn.attributes.items()}
        out = emit(node, "RotaryEmbedding", [first[0], *turn.inputs[1:]], first[0].shape, DOMAIN, **attributes)
        out.producer().metadata_props.update(node.metadata_props)
        replace(node, [out])
    prune(graph)
