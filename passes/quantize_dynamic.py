"""Quantise weights to int8 with a scale for each output channel, and activations to uint8 as the model runs. For CPUs.

Invariant: what is not a matrix product or a look-up of words stays float32; where each token has a scale, a text's result does
not depend on what else is in its batch. On x86 without VNNI, sums of two products of 8 bits may saturate; those of 7 do not.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.channels import columns, quantisable, quantize_gather
from onnxmake.model.graph import CONTRIB, constant, emit, emit_many, integers, prune, replace
from onnxmake.model.lowering import Device

ENVIRONMENT = "cpu"
UINT8, INT64 = ir.DataType.UINT8, ir.DataType.INT64


@dataclass(frozen=True)
class Options:
    device: Device
    bits: Literal[8, 7] = 8  # of weights
    activations: Literal["token", "tensor"] = "token"  # what shares a scale; "tensor" is a tenth faster, and less exact
    embeddings: Literal["int8", "keep"] = "int8"  # tables of words: stored as int8, looked up as float32
    keep: tuple[str, ...] = ()  # patterns of names in the checkpoint, whose weights stay: ["pooler.*"]


def _by_token(node: ir.Node, x: ir.Value) -> tuple[Sequence[ir.Value], ir.Value | None]:
    """x as uint8, the scale and zero point that all of it has, and what each token's products are multiplied by."""
    graph, each, width = node.graph, [*list(x.shape)[:-1], 1], node.inputs[1].shape[1]
    peak = emit(node, "ReduceMax", [emit(node, "Abs", [x], x.shape), integers(graph, [-1])], each, keepdims=1)
    scale = emit(node, "Mul", [peak, constant(graph, np.array(1 / 127, np.float32))], each)
    scale = emit(node, "Max", [scale, constant(graph, np.array(np.finfo(np.float32).tiny))], each)  # of zeros
    zero, shape = constant(graph, np.array(128, np.uint8)), emit(node, "Shape", [scale], [len(each)], dtype=INT64)
    zeros = emit(node, "Expand", [zero, shape], each)
    whole = emit(node, "QuantizeLinear", [x, scale, zeros], x.shape, dtype=UINT8, axis=-1, block_size=width)
    return (whole, constant(graph, np.array(1, np.float32)), zero), scale


def _at_once(node: ir.Node, x: ir.Value) -> tuple[Sequence[ir.Value], ir.Value | None]:
    """The same with one scale for all of x: faster, and less exact."""
    return emit_many(node, "DynamicQuantizeLinear", [x], [x.shape, [], []], dtypes=[UINT8, x.dtype, UINT8]), None


ACTIVATIONS = {"token": _by_token, "tensor": _at_once}


def _product(node: ir.Node, o: Options, tables: Collection[ir.Value]) -> None:
    """Linear -> MatMulIntegerToFloat. Products that read the same share what is done to it."""
    x, _, *bias = node.inputs
    (whole, scale, zero), each = ACTIVATIONS[o.activations](node, x)
    codes, scales = columns(node, o.bits, tables)
    operands = [whole, codes, scale, scales, zero, *([None, *bias] if bias and each is None else [])]
    out = emit(node, "MatMulIntegerToFloat", operands, node.outputs[0].shape, CONTRIB, x.dtype)
    if each is not None:
        out = emit(node, "Mul", [out, each], out.shape)
        out = emit(node, "Add", [out, *bias], out.shape) if bias else out
    replace(node, [out])


def rewrite(model: ir.Model, o: Options) -> int:
    if o.device != "cpu":
        raise UnsupportedError(
            f"quantize_dynamic is for CPUs, and the target's device is {o.device}.",
            "Of ONNX Runtime's providers, the CPU's multiplies int8 by activations quantised as it runs.",
            'Use quantize_rtn, or write device = "cpu".',
        )
    ops = ("Linear", "Gather") if o.embeddings == "int8" else ("Linear",)
    found = quantisable(model.graph, o.keep, ops)
    tables = {node.inputs[0] for node in found if node.op_type == "Gather"}
    for node in found:
        if node.op_type == "Linear":
            _product(node, o, tables)
        else:
            quantize_gather(node, o.bits)
    prune(model.graph)
    return len(found)
