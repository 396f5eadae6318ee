"""From a device's graph to a file that a runtime loads: what is left lowered, and bound to the checkpoint's weights."""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import onnx_ir as ir

from onnxmake.model import canonical
from onnxmake.model.lowering import Device, lower
from onnxmake.model.prequantized import read_logical
from onnxmake.model.safetensors import read_header
from onnxmake.model.weights import bind


def assemble(
    model: ir.Model,
    device: Device,
    checkpoint: Path,
    out: Path,
    progress: Callable[[int, int], None],
    stored: Path | None = None,
) -> None:
    """Lower what is left and write out/model.onnx and its weights, model.onnx.data.

    `stored`: the file of those that a step has quantised, which may be missing.
    """
    lower(model.graph, device)
    canonical.canonicalize(model)
    made = read_header(stored) if stored is not None and stored.exists() else {}
    bind(model, read_logical(checkpoint) | made, out, "model.onnx.data", progress)
    canonical.save(model, out / "model.onnx")


def copy_files(checkpoint: Path, out: Path, consumed: Collection[str]) -> None:
    """Copy what of the checkpoint stands beside the model as it is: all but weights and the files `consumed`."""
    for path in sorted(checkpoint.iterdir()):
        if path.suffix != ".safetensors" and path.name not in consumed:
            shutil.copyfile(path, out / path.name)
