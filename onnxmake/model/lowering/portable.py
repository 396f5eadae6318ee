"""Semantic ops in standard ONNX ops only: runs in any ONNX runtime, and is the reference for the other tables."""

import numpy as np
import onnx_ir as ir

from onnxmake.model.experts import dense
from onnxmake.model.graph import attribute, emit, emit_many, integers, replace
from onnxmake.model.lowering._norms import layer_norm, rms_norm
from onnxmake.model.lowering._rotary import rotary_embedding, rotary_table
from onnxmake.model.lowering._scan import linear_attention
from onnxmake.model.lowering._softmax import attention


def linear(node: ir.Node) -> None:
    x, weight, *bias = node.inputs
    out = node.outputs[0].shape
    product = emit(node, "MatMul", [x, emit(node, "Transpose", [weight], reversed(weight.shape), perm=[1, 0])], out)
    replace(node, [emit(node, "Add", [product, *bias], out) if bias else product])


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
