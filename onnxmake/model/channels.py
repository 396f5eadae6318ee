"""int8 weights with a scale for each output channel: what products of integers read, and look-ups of such tables."""

import fnmatch
import math
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from onnxmake.errors import PassError, UnsupportedError
from onnxmake.model.graph import DOMAIN, attribute, attributes, emit, emit_many, integers, nodes, produced_by, replace

LARGEST = {8: 127, 7: 64}  # code by bits: 2 x 255 x 64 fits int16, where processors without VNNI add pairs of products
WEIGHTS = {"Linear": (DOMAIN, 1), "Conv": ("", 1), "Gather": ("", 0)}  # op -> its domain, which input is the weight
SMALL = 1 << 16  # values of a table that is looked up faster as it is


def rounded(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [N, K] and scales float32 [N] of float32 [N, K]; a scale is not finite where its row is not.

    scale = max|row| / largest code, code = row / scale, half to even, as QuantizeLinear rounds. The scale of zeros is 1.
    """
    largest = np.float32(LARGEST[bits])
    with np.errstate(invalid="ignore"):
        scales = np.maximum(rows.max(1), -rows.min(1)) / largest
        scales = np.where(scales == 0, np.float32(1), scales)
        codes = np.divide(rows, scales[:, None])
        return np.clip(np.rint(codes, out=codes), -largest, largest, out=codes).astype(np.int8), scales


def weight_of(node: ir.Node) -> ir.Node | None:
    """The reference that a product, convolution or look-up of rows reads as its weight."""
    domain, place = WEIGHTS[node.op_type]
    is_one = node.domain == domain and (node.op_type != "Gather" or not attribute(node, "axis", 0))
    return produced_by(node.inputs[place], "Weight", DOMAIN) if is_one else None


def _pays(node: ir.Node, weight: ir.Node) -> bool:
    """Whether int8 is smaller or faster than what is there: not of a small table that is only looked up."""
    users = {user.op_type for user, _ in weight.outputs[0].uses()}
    return node.op_type != "Gather" or "Linear" in users or math.prod(weight.outputs[0].shape) >= SMALL


def quantisable(graph: ir.Graph, keep: Sequence[str], ops: Collection[str]) -> list[ir.Node]:
    """The nodes of these op types that read a weight, but for those with a tensor that a pattern of `keep` names.

    Raises PassError for a pattern that names none, UnsupportedError where weights are not float32.
    """
    found = [(node, weight) for node in nodes(graph, *ops) if (weight := weight_of(node)) and _pays(node, weight)]
    names = sorted({part for _, weight in found for part in attribute(weight, "parts")})
    for pattern in keep:
        if not fnmatch.filter(names, pattern):
            raise PassError(
                f"keep = {pattern!r} names no weight.",
                "It is a pattern of names in the checkpoint, * for anything, and none that would be quantised is like it.",
                f"Correct it. There are {', '.join(names[:3])} ..." if names else "",
            )
    for _, weight in found:
        if weight.outputs[0].dtype != ir.DataType.FLOAT:
            raise UnsupportedError(
                f"{attribute(weight, 'parts')[0]} is cast to {weight.outputs[0].dtype.name.lower()}.",
                "The runtime's products of integers hand out float32.",
                "Remove cast from the target.",
            )
    kept = {name for pattern in keep for name in fnmatch.filter(names, pattern)}
    return [node for node, weight in found if kept.isdisjoint(attribute(weight, "parts"))]


def _reference(before: ir.Node, weight: ir.Node, bits: int, turned: bool) -> Sequence[ir.Value]:
    shape = list(weight.outputs[0].shape)
    shapes, dtypes = [shape[::-1] if turned else shape, shape[:1]], [ir.DataType.INT8, ir.DataType.FLOAT]
    settings = attributes(weight) | {"bits": bits} | ({"turned": 1} if turned else {})
    return emit_many(before, "ChannelQuantizedWeight", [], shapes, DOMAIN, dtypes, **settings)


def reference(node: ir.Node, bits: int) -> Sequence[ir.Value]:
    """Codes int8 of the shape of the node's weight [N, ...], and scales float32 [N]."""
    return _reference(node, weight_of(node), bits, False)


def columns(node: ir.Node, bits: int, tables: Collection[ir.Value]) -> Sequence[ir.Value]:
    """Codes int8 [K, N] of a Linear's weight, as products of integers read them, and scales float32 [N].

    One of `tables`, which are looked up, too, is stored once: the runtime turns it as it loads the model.
    """
    if node.inputs[1] not in tables:
        return _reference(node, weight_of(node), bits, True)
    codes, scales = reference(node, bits)
    return emit(node, "Transpose", [codes], list(codes.shape)[::-1], perm=[1, 0]), scales


def quantize_gather(node: ir.Node, bits: int) -> None:
    """Look up codes and their scales, and multiply."""
    ids, shape, flat = node.inputs[1], node.outputs[0].shape, list(node.outputs[0].shape)[:-1]
    codes, scales = reference(node, bits)
    found = emit(node, "Gather", [codes, ids], shape, axis=0)
    values = emit(node, "Cast", [found], shape, dtype=scales.dtype, to=int(scales.dtype))
    scale = emit(node, "Gather", [scales, ids], flat, axis=0)
    scale = emit(node, "Unsqueeze", [scale, integers(node.graph, [-1])], [*flat, 1])
    replace(node, [emit(node, "Mul", [values, scale], shape)])
