"""Change the float type of weights, activations, inputs and outputs. Comes before optimize and quantisers.

Invariant: the same graph over another float type; rotary tables are still computed in float32, and so is what makes
integers of integers. Whatever type the checkpoint has, each weight is rounded once, from the checkpoint's values.
"""

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxmake.model.casting import cast

ENVIRONMENT = "cpu"


@dataclass(frozen=True)
class Options:
    dtype: Literal["fp32", "fp16", "bf16"]


def rewrite(model: ir.Model, o: Options) -> int:
    return cast(model, o.dtype)
