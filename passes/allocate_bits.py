"""Give those weights more bits that lose most by rounding, within an average or a size; the quantiser that follows heeds it.

Invariant: the same graph; weights of products and of tokens' embeddings are allocated their bits. How much one loses is measured on a
text: the share of its product's, or of its looked-up rows', energy that rounding to low_bits changes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from onnxmake.errors import PassError, TargetError
from onnxmake.model import canonical
from onnxmake.model.allocation import allocate, within_average, within_size
from onnxmake.model.calibration import windows
from onnxmake.model.footprint import Sizes, free, sizes, tell
from onnxmake.model.options import CALIBRATED, BlockOptions, Part
from onnxmake.model.sensitivity import measure

ENVIRONMENT = "cpu"
READS = CALIBRATED
MEMORY_MB = 4000


@dataclass(frozen=True)
class Options:
    average_bits: float = 0  # of a weight in a matrix product or a table of embeddings, scales not counted; or:
    max_size_mb: float = 0  # of model.onnx.data in 10^6 bytes: all weights, with their scales, and what stays float
    low_bits: Literal[2, 4] = 4
    high_bits: Literal[4, 8] = 8
    block_size: Literal[16, 32, 64, 128, 256] = 32  # these are the quantiser's; its bits are low_bits
    symmetric: bool = True
    embeddings: Part = "same"  # "same": as a tied head, or else by what they lose
    experts: Part = "same"
    # a text or rows beside the target, or hf://datasets/OWNER/NAME@COMMIT/FILE; "": the text that comes along
    calibration: str = ""
    text_template: str = ""  # of rows: "{question} {answer}"; "": the column text
    samples: int = 32
    tokens: int = 256  # of each sample


def _quantiser(o: Options) -> BlockOptions:
    """Options of the quantiser that follows."""
    return BlockOptions(o.low_bits, o.block_size, o.symmetric, embeddings=o.embeddings, experts=o.experts)


def _layouts(model: ir.Model, o: Options) -> tuple[Sizes, Sizes]:
    """With the low bits, and the high ones, for every weight that has a choice."""
    return sizes(model, o.low_bits, _quantiser(o)), sizes(model, o.high_bits, _quantiser(o))


def run(src: Path, out: Path, o: Options) -> None:
    if bool(o.average_bits) == bool(o.max_size_mb):
        raise TargetError(
            f"allocate_bits has {'both' if o.average_bits else 'neither'} average_bits {'and' if o.average_bits else 'nor'} max_size_mb.",
            "One of them says how much room there is for the high bits.",
            "Write average_bits = 5 or max_size_mb = 400, for instance.",
        )
    model, plain = (ir.load(src / "model.onnx") for _ in range(2))
    both = _layouts(model, o) if o.max_size_mb else None
    fits = within_size(*both, o.max_size_mb) if both else None  # before anything is measured: it may be impossible
    rows = windows(src / "checkpoint", src / o.calibration, o.text_template, o.samples, o.tokens)
    losses = measure(plain, src / "checkpoint", rows, _quantiser(o))
    fits = fits or within_average(losses, o.low_bits, o.high_bits, o.average_bits)
    chosen = allocate(losses, fits, free(*both) if both else ())
    if not tell(model.graph, {key: o.high_bits if key in chosen else o.low_bits for key in losses}):
        raise PassError(
            "allocate_bits changed nothing.", "No matrix product reads a weight as it is stored.", "Remove the pass."
        )
    canonical.save(model, out / "model.onnx")
