"""A captured graph built for a device in one call, without steps and store: for proofs."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from onnxmake.model.assemble import assemble
from onnxmake.model.optimize import optimize


def build(graph: Path, checkpoint: Path, out: Path, device: str, finish: Callable = lambda graph: None) -> Path:
    """The captured graph for the device, changed by `finish`, with the checkpoint's weights. Returns the model's file."""
    model = ir.load(graph)
    optimize(model, device)
    finish(model.graph)
    return bind(model, checkpoint, out, device)


def bind(model: ir.Model, checkpoint: Path, out: Path, device: str, stored: Path | None = None) -> Path:
    """A device's graph with the checkpoint's weights, and those that a step has `stored`. Returns the model's file."""
    out.mkdir(exist_ok=True)
    assemble(model, device, checkpoint, out, lambda done, total: None, stored)
    return out / "model.onnx"
