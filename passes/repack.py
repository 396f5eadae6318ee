"""Take over the weights that a checkpoint holds as integers in groups (GPTQ, AWQ, compressed-tensors), as they are.

Invariant: products read the checkpoint's own codes, scales and zero points; nothing is rounded. Matrix products become
MatMulNBits, experts QMoE, look-ups GatherBlockQuantized; what the checkpoint does not hold quantised is left to a quantiser that
follows. A checkpoint that is not quantised so is an error, and what could not be taken over without loss, unless under keep.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model import canonical
from onnxmake.model.options import GRAPH_AND_WEIGHTS, AccuracyLevel
from onnxmake.model.prequantized import read_logical
from onnxmake.model.repack import repack

ENVIRONMENT = "cpu"
READS = GRAPH_AND_WEIGHTS


@dataclass(frozen=True)
class Options:
    accuracy_level: AccuracyLevel = 4
    keep: tuple[str, ...] = ()  # globs over modules as the checkpoint names them: dequantised as they are read


def run(src: Path, out: Path, o: Options) -> None:
    model, checkpoint = ir.load(src / "model.onnx"), src / "checkpoint"
    if any(node.op_type == "QuantizedWeight" for node in model.graph):
        raise PassError(
            "repack came after a quantiser.",
            "It would find what the checkpoint holds quantised rounded once more.",
            "Move repack up, in front of all quantisers.",
        )
    if not repack(model.graph, read_logical(checkpoint), o.keep, o.accuracy_level):
        method = json.loads((checkpoint / "config.json").read_text("utf-8")).get("quantization_config")
        raise PassError(
            "repack changed nothing.",
            "No matrix product reads weights that the checkpoint holds as integers in groups"
            + ("." if method else ": config.json has no quantization_config."),
            "Remove the pass; quantize_rtn quantises what is not quantised.",
        )
    canonical.save(model, out / "model.onnx")
