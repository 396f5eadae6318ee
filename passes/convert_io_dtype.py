"""Change the type of inputs and outputs, with casts at the border. Comes behind package_onnx or package_genai.

Invariant: the graph inside computes in the types that it had. A cast that one at the border takes back goes with it: of floats to
a narrower type and back that is one rounding less. States (past_key_values, present) keep their type.
"""

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxmake.model.io_dtype import convert

ENVIRONMENT = "cpu"
STAGE = "model"


@dataclass(frozen=True)
class Options:
    dtype: Literal["fp32", "fp16", "bf16", "int32", "int64"]
    inputs: tuple[str, ...] = ()  # globs of names
    outputs: tuple[str, ...] = ()
    only: Literal["any", "fp32", "fp16", "bf16", "int32", "int64"] = "any"  # of those, the ones that are of this type

    def __post_init__(self):
        if not (self.inputs or self.outputs):
            raise ValueError("neither inputs nor outputs are named")


def rewrite(model: ir.Model, o: Options) -> int:
    return convert(model.graph, o.dtype, o.inputs, o.outputs, o.only)
