"""RMS and layer norms in standard ops."""

import onnx_ir as ir

from onnxmake.model.graph import DOMAIN, attribute, attributes, emit, integers, replace
from onnxmake.model.lowering._values import floats


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
