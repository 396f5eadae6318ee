"""Capture the checkpoint's architecture from Transformers' own code as a graph of semantic ops.

Invariant: the graph computes what the Transformers class computes from the same config; weights are references by name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxmake.model import canonical
from onnxmake.model.capture import capture

ENVIRONMENT = "torch"
STAGE = "export"
MEMORY_MB = 1000  # torch and Transformers loaded, and the trace; no weights
READS = ("checkpoint/architecture.json", "checkpoint/tensors.json")


@dataclass(frozen=True)
class Options:
    # of a model that generates no text: all of it, without its head, or one of its towers
    part: Literal["model", "base", "encoder", "text", "vision"] = "model"


def run(src: Path, out: Path, o: Options) -> None:
    architecture, tensors = (json.loads((src / name).read_text("utf-8")) for name in READS)
    canonical.save(capture(architecture, tensors, o.part), out / "model.onnx")
