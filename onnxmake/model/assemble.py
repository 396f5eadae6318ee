"""From a device's graph to a file that a runtime loads: what is left lowered, and bound to the checkpoint's weights."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from onnxmake.model import canonical
from onnxmake.model.lowering import Device, lower
from onnxmake.model.prequantized import read_logical
from onnxmake.model.weights import bind


def assemble(
    model: ir.Model, device: Device, checkpoint: Path, out: Path, progress: Callable[[int, int], None]
) -> None:
    """Lower what is left and write out/model.onnx and its weights, model.onnx.data."""
    lower(model.graph, device)
    canonical.canonicalize(model)
    bind(model, read_logical(checkpoint), out, "model.onnx.data", progress)
    canonical.save(model, out / "model.onnx")
