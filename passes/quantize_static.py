"""Quantise weights to int8 with a scale for each output channel, and activations to uint8 with scales known from calibration.

Invariant: standard ops only, QuantizeLinear and DequantizeLinear around what runtimes then compute in integers: matrix
products, convolutions. The scales come of this machine's float32: another processor's may differ in the last bit.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model import canonical
from onnxmake.model.activations import observe
from onnxmake.model.calibration import calibration
from onnxmake.model.channels import columns, quantisable, quantize_gather, reference
from onnxmake.model.graph import attributes, constant, emit, integers, prune, replace
from onnxmake.model.lowering import Device
from onnxmake.model.options import CALIBRATED
from onnxmake.model.ranges import Seen, affine, spanned

ENVIRONMENT = "cpu"
MEMORY_MB = 3000  # the model in float32, as the runtime holds it
READS = CALIBRATED


@dataclass(frozen=True)
class Options:
    device: Device
    method: Literal["minmax", "percentile", "entropy"] = "minmax"  # encoders of text need their outliers
    # a file beside the target, or hf://datasets/OWNER/NAME@COMMIT/FILE: text, rows, or .npz of arrays named as inputs; "": the text that
    # comes along
    calibration: str = ""
    text_template: str = ""  # of rows: "{question} {answer}"; "": the column text
    samples: int = 32
    tokens: int = 64  # of each sample of a text
    bits: Literal[8, 7] = 8  # of weights; of 7, products do not saturate on x86 without VNNI
    embeddings: Literal["int8", "keep"] = "int8"  # tables of words: stored as int8, looked up as float32
    keep: tuple[str, ...] = ()  # patterns of names in the checkpoint, whose weights stay: ["pooler.*"]


def _without_bias(conv: ir.Node) -> None:
    """Conv, and behind it Add where there was a bias: the runtime's convolution of integers would want that as integers."""
    x, weight, *bias = conv.inputs
    if not bias:
        return
    shape, column = list(conv.outputs[0].shape), [1, weight.shape[0], *[1] * (len(weight.shape) - 2)]
    product = emit(conv, "Conv", [x, weight], shape, **attributes(conv))
    turned = emit(conv, "Reshape", [*bias, integers(conv.graph, column)], column)
    replace(conv, [emit(conv, "Add", [product, turned], shape)])


def _tensors(node: ir.Node) -> list[ir.Value]:
    """Those besides the weight that integers stand for: a look-up has none."""
    return {"Linear": [node.inputs[0]], "Conv": [node.inputs[0], node.outputs[0]]}.get(node.op_type, [])


def _rounded(before: ir.Node, x: ir.Value, seen: Seen, method: str) -> ir.Value:
    """x as uint8 codes stand for it."""
    scale, zero = (constant(before.graph, number) for number in affine(*spanned(seen, method)))
    codes = emit(before, "QuantizeLinear", [x, scale, zero], x.shape, dtype=ir.DataType.UINT8)
    return emit(before, "DequantizeLinear", [codes, scale, zero], x.shape, dtype=x.dtype)


def _linear(node: ir.Node, o: Options, tables: Collection[ir.Value], x: Seen) -> None:
    value, _, *bias = node.inputs
    codes, scales = columns(node, o.bits, tables)
    weight = emit(node, "DequantizeLinear", [codes, scales], codes.shape, dtype=scales.dtype, axis=1)
    out = emit(node, "MatMul", [_rounded(node, value, x, o.method), weight], node.outputs[0].shape)
    replace(node, [emit(node, "Add", [out, *bias], out.shape) if bias else out])


def _conv(node: ir.Node, o: Options, x: Seen, y: Seen) -> None:
    codes, scales = reference(node, o.bits)
    weight = emit(node, "DequantizeLinear", [codes, scales], codes.shape, dtype=scales.dtype, axis=0)
    operands = [_rounded(node, node.inputs[0], x, o.method), weight]
    out = emit(node, "Conv", operands, node.outputs[0].shape, **attributes(node))
    replace(node, [_rounded(node, out, y, o.method)])


def _quantize(model: ir.Model, o: Options, src: Path) -> int:
    """In place. Returns the number of products, convolutions and look-ups."""
    ops = ("Linear", "Conv", "Gather") if o.embeddings == "int8" else ("Linear", "Conv")

    def chosen(graph: ir.Graph) -> list[ir.Value]:
        return [*dict.fromkeys(value for node in quantisable(graph, o.keep, ops) for value in _tensors(node))]

    for node in quantisable(model.graph, o.keep, ops):
        if node.op_type == "Conv":
            _without_bias(node)
    found, values = quantisable(model.graph, o.keep, ops), chosen(model.graph)
    feeds = calibration(model.graph.inputs, src, o.calibration, o.text_template, o.samples, o.tokens)
    seen = dict(zip(values, observe(model, chosen, o.device, src / "checkpoint", feeds) if values else []))
    known = [[seen[value] for value in _tensors(node)] for node in found]  # rewriting puts others in their place
    tables = {node.inputs[0] for node in found if node.op_type == "Gather"}
    for node, of in zip(found, known):
        if node.op_type == "Linear":
            _linear(node, o, tables, *of)
        elif node.op_type == "Conv":
            _conv(node, o, *of)
        else:
            quantize_gather(node, o.bits)
    prune(model.graph)
    return len(found)


def run(src: Path, out: Path, o: Options) -> None:
    model = ir.load(src / "model.onnx")
    if not _quantize(model, o, src):
        raise PassError(
            "quantize_static changed nothing.",
            "The graph holds no product or convolution with a weight of the checkpoint, or keep names them all.",
            "Remove the pass from the target.",
        )
    canonical.save(model, out / "model.onnx")
