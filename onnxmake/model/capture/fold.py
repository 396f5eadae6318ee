"""Small patterns of traced graphs that semantic ops can say themselves."""

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript.optimizer import fold_constants

from onnxmake.model.graph import (
    DOMAIN,
    attribute,
    attributes,
    emit,
    last_axis_slice,
    nodes,
    produced_by,
    prune,
    replace,
    rotary_width,
)


def constants(model: ir.Model) -> None:
    """Compute what depends on no input and no weight; weights must be nodes by now, or their zeros would be baked in."""
    fold_constants(model, onnx_shape_inference=False, output_size_limit=1 << 16)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    prune(model.graph)


def transposed_weights(graph: ir.Graph) -> None:
    """Transpose(Weight) of a matrix, or of each in a stack, is a Weight that is stored the other way round."""
    for node in nodes(graph, "Transpose"):
        weight = produced_by(node.inputs[0], "Weight", DOMAIN)
        if weight is None or node.outputs[0].shape is None or list(attribute(node, "perm")) not in ([1, 0], [0, 2, 1]):
            continue
        reference, out = attributes(weight), node.outputs[0]
        matrices = 1 if len(out.shape) == 2 else out.shape[0]
        if "rows" in reference or len(reference["parts"]) not in (1, matrices):  # a part is no whole number of matrices
            continue
        if not reference.pop("transposed", 0):
            reference["transposed"] = 1
        replace(node, [emit(node, "Weight", [], out.shape, DOMAIN, weight.outputs[0].dtype, **reference)])
    prune(graph)


def partial_rotations(graph: ir.Graph) -> None:
    """Concat(RotaryEmbedding(x[..., :R]), x[..., R:]) is RotaryEmbedding(x), which lets the rest pass."""
    for node in nodes(graph, "Concat"):
        if node.outputs[0].shape is None or len(node.inputs) != 2:
            continue
        rank = node.outputs[0].shape.rank()
        if attribute(node, "axis") % rank != rank - 1:
            continue
        turn, rest = produced_by(node.inputs[0], "RotaryEmbedding", DOMAIN), last_axis_slice(node.inputs[1])
        first = None if turn is None else last_axis_slice(turn.inputs[0])
        if None in (turn, rest, first) or first[0] is not rest[0] or (first[1], first[2]) != (0, rest[1]):
            continue
        if rest[2] != rest[0].shape[-1] or rotary_width(turn) != first[2]:
            continue
        out = emit(node, "RotaryEmbedding", [first[0], *turn.inputs[1:]], first[0].shape, DOMAIN, **attributes(turn))
        out.producer().metadata_props.update(node.metadata_props)
        replace(node, [out])
    prune(graph)
