"""Give those products more bits that lose most by rounding, within an average; the quantiser that follows heeds it.

Invariant: the same graph; Linear ops are told their bits. How much a product loses is measured on a text: the share of its output's
energy that rounding to low_bits changes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model import canonical
from onnxmake.model.calibration import windows
from onnxmake.model.graph import DOMAIN, produced_by
from onnxmake.model.segments import key_of
from onnxmake.model.sensitivity import allocate, measure

ENVIRONMENT = "cpu"
READS = (
    "model.onnx",
    "checkpoint/config.json",
    "checkpoint/model.safetensors.index.json?",
    "checkpoint/*.safetensors",
    "checkpoint/tokenizer.json?",
)
MEMORY_MB = 4000


@dataclass(frozen=True)
class Options:
    average_bits: float  # of a weight in a matrix product, scales not counted
    low_bits: Literal[2, 4] = 4
    high_bits: Literal[4, 8] = 8
    block_size: Literal[16, 32, 64, 128, 256] = 32  # that losses are measured with: the quantiser's
    symmetric: bool = True
    calibration: str = ""  # a text beside the target; "": the one that comes along
    samples: int = 32
    tokens: int = 256  # of each sample


def run(src: Path, out: Path, o: Options) -> None:
    model, plain = (ir.load(src / "model.onnx") for _ in range(2))
    rows = windows(src / "checkpoint", src / o.calibration, o.samples, o.tokens)
    products = measure(plain, src / "checkpoint", rows, o.low_bits, o.block_size, o.symmetric)
    chosen, count = allocate(products, o.low_bits, o.high_bits, o.average_bits), 0
    for node in [n for n in model.graph if n.op_type == "Linear" and n.domain == DOMAIN]:
        weight = produced_by(node.inputs[1], "Weight", DOMAIN)
        if weight is not None and key_of(weight) in products:
            bits = o.high_bits if key_of(weight) in chosen else o.low_bits
            node.attributes["bits"] = ir.AttrInt64("bits", bits)
            count += 1
    if not count:
        raise PassError(
            "allocate_bits changed nothing.", "No matrix product reads a weight as it is stored.", "Remove the pass."
        )
    canonical.save(model, out / "model.onnx")
