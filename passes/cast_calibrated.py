"""Change the float type to float16, but for nodes around values that it would not hold. Comes in place of cast.

Invariant: on the calibration data, no value of float16 is beyond half of what the type holds; casts stand where types meet.
"""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxmake.model import canonical
from onnxmake.model.activations import peaks
from onnxmake.model.calibration import calibration
from onnxmake.model.casting import LARGEST, TYPES, cast, float_type
from onnxmake.model.graph import DOMAIN
from onnxmake.model.lowering import Device
from onnxmake.model.options import CALIBRATED

ENVIRONMENT = "cpu"
MEMORY_MB = 3000  # the model in float32, as the runtime holds it
READS = CALIBRATED


@dataclass(frozen=True)
class Options:
    device: Device
    # a file beside the target, or hf://datasets/OWNER/NAME@COMMIT/FILE: text, rows, or .npz of arrays named as inputs; "": the text that
    # comes along
    calibration: str = ""
    text_template: str = ""  # of rows: "{question} {answer}"; "": the column text
    samples: int = 8
    tokens: int = 64  # of each sample of a text


def _computed(graph: ir.Graph) -> list[ir.Value]:
    """What the nodes compute in the graph's float type."""
    dtype, stored = float_type(graph), {(DOMAIN, "Weight"), ("", "Constant")}
    return [v for node in graph if (node.domain, node.op_type) not in stored for v in node.outputs if v.dtype == dtype]


def run(src: Path, out: Path, o: Options) -> None:
    model = ir.load(src / "model.onnx")
    feeds = calibration(model.graph.inputs, src, o.calibration, o.text_template, o.samples, o.tokens)
    values = _computed(model.graph)
    found = zip(values, peaks(model, _computed, o.device, src / "checkpoint", feeds))
    large = {value: peak for value, peak in found if peak > LARGEST[TYPES["fp16"]] / 2}
    for value, peak in large.items():
        print(f"{value.name} of {value.producer().op_type} is up to {peak:.3g} and stays float32.")
    cast(model, "fp16", large)
    canonical.save(model, out / "model.onnx")
