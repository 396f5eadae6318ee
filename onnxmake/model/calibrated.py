"""Quantise what a graph marks, layer by layer, by the activations of a text."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model import canonical
from onnxmake.model.blocks import quantize
from onnxmake.model.calibration import windows
from onnxmake.model.graph import attribute, nodes
from onnxmake.model.layerwise import Grams, layerwise
from onnxmake.model.options import CalibratedOptions
from onnxmake.model.prequantized import read_logical
from onnxmake.model.reader import Reader
from onnxmake.model.segments import Segment, Values, key_of
from onnxmake.model.stored import SUFFIXES, Stored, dequantized

Rounded = tuple[np.ndarray, np.ndarray, np.ndarray]  # codes, scales, zero points
Settings = tuple[int, int, bool]  # bits, block size, symmetric
Rounding = Callable[
    [np.ndarray], Callable[[np.ndarray, int, int, bool], Rounded]
]  # X^T X -> weight and settings -> rounded
Scaling = Callable[[Segment, Values, Grams, dict[str, Settings]], set[str]]


def _label(key: tuple[str, ...], reference: ir.Node) -> str:
    """A name for the file: the first tensor's, and what else tells references apart."""
    return ".".join([attribute(reference, "parts")[0], *(part for part in key[1:] if part != "None")])


def quantize_layers(
    src: Path, out: Path, o: CalibratedOptions, rounding: Rounding, scaling: Scaling = lambda *_: set()
) -> None:
    """Mark the weights of src/model.onnx as `o` says, quantise those of products on what the same graph unquantised computes of the
    calibration text, and write model.onnx and stored.FILE into `out`. Raises PassError where there are none.

    scaling: what to change in a layer before its weights are rounded, of those that nothing but products reads; returns the names
    of weights that it divided.
    """
    model, plain = (ir.load(src / "model.onnx") for _ in range(2))
    quantize(model.graph, o, "rtn")
    rows = windows(src / "checkpoint", src / o.calibration, o.text_template, o.samples, o.tokens)
    canonical.canonicalize(model)  # a head and the embeddings tied to it are one weight
    products = {n.inputs[1].producer() for n in nodes(model.graph, "MatMulNBits")}
    marked = {key_of(node): node for node in products if node is not None}
    floats = {key_of(node): node for node in nodes(model.graph, "Weight")}
    if not marked:
        raise PassError(
            "The quantiser changed nothing.",
            "No matrix product reads a weight as it is stored, or all are kept.",
            "Remove the pass.",
        )
    labels = {key: _label(key, node) for key, node in (floats | marked).items()}
    names = [label + suffix for label in labels.values() for suffix in ("", *SUFFIXES)]

    def visit(segment: Segment, weights: Values, grams: Grams) -> None:
        keys = {name: key_of(node) for name, node in segment.references.items()}
        wanted = {name: marked[keys[name]] for name in segment.products if keys[name] in marked}
        settings = {name: _settings(node) for name, node in wanted.items()}
        changed = scaling(
            segment, weights, grams, {name: settings[name] for name, node in wanted.items() if _own(node)}
        )
        rounds = {activation: rounding(gram) for activation, gram in grams.items()}
        for name, node in wanted.items():
            found = rounds[segment.products[name]](weights[name], *settings[name])
            stored.put_codes(labels[keys[name]], node, *found)
            weights[name] = dequantized(*found, settings[name][1])
        for name in sorted(changed - {*wanted}):
            reference = floats[keys[name]]
            stored.put(labels[keys[name]], weights[name] - np.float32(attribute(reference, "offset", 0.0)))
            _read_instead(reference, labels[keys[name]])

    with Stored(out, names) as stored, ThreadPoolExecutor(1) as ahead:
        layerwise(plain, Reader(read_logical(src / "checkpoint"), ahead), rows, visit)
    canonical.save(model, out / "model.onnx")


def _own(node: ir.Node) -> bool:
    """Whether products alone read it: no embedding is tied to it."""
    return all(user.op_type == "MatMulNBits" for user, _ in node.outputs[0].uses())


def _settings(node: ir.Node) -> Settings:
    return attribute(node, "bits"), attribute(node, "block_size"), bool(attribute(node, "symmetric"))


def _read_instead(reference: ir.Node, label: str) -> None:
    """Let a Weight be the tensor `label`."""
    original = attribute(reference, "parts")[0]
    for name in ("rows", "transposed"):
        reference.attributes.pop(name, None)
    reference.attributes["parts"] = ir.AttrStrings("parts", [label])
    reference.attributes["instead_of"] = ir.AttrString("instead_of", original)
