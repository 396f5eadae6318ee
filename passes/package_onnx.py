"""Bind the weights and lay out a folder for ONNX Runtime: model, configuration, tokenizer or image processor.

Invariant: the model's bytes hold everything it needs; no reference to the checkpoint is left.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxmake.model.adapters import carried
from onnxmake.model.assemble import assemble, copy_files
from onnxmake.model.lowering import Device
from onnxmake.model.progress import progress
from onnxmake.model.stored import FILE

ENVIRONMENT = "cpu"
STAGE = "package"
READS = (
    "model.onnx",
    "quantized.safetensors?",
    "*.onnx_adapter",
    "checkpoint/config.json",
    "checkpoint/model.safetensors.index.json?",
    "checkpoint/*.safetensors",
    "checkpoint/tokenizer.json?",
    "checkpoint/tokenizer_config.json?",
    "checkpoint/special_tokens_map.json?",
    "checkpoint/added_tokens.json?",
    "checkpoint/vocab.json?",
    "checkpoint/vocab.txt?",
    "checkpoint/merges.txt?",
    "checkpoint/preprocessor_config.json?",
    "checkpoint/processor_config.json?",
)
CONSUMED = {"model.safetensors.index.json"}


@dataclass(frozen=True)
class Options:
    device: Device


def run(src: Path, out: Path, o: Options) -> Iterable[str]:
    checkpoint, model = src / "checkpoint", ir.load(src / "model.onnx")
    adapters = carried(model.graph, src)
    assemble(model, o.device, checkpoint, out, progress, src / FILE)
    copy_files(checkpoint, out, CONSUMED)
    return adapters
