"""Give sizes that are free until a model runs a number: by the size's name, or by an input's whole shape. Behind package_onnx or package_genai.

Invariant: the same computation for inputs of these shapes. Shapes of all values are told anew, and must agree with those that ONNX
infers; of past, sequence and total, which is their sum, two give the third.
"""

from dataclasses import dataclass, field

import onnx_ir as ir

from onnxmake.model.fixed import fix

ENVIRONMENT = "cpu"
STAGE = "model"


@dataclass(frozen=True)
class Options:
    dims: dict[str, int] = field(default_factory=dict)  # { batch = 1, sequence = 128 }
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)  # { input_ids = [1, 128] }

    def __post_init__(self):
        if not (self.dims or self.inputs):
            raise ValueError("neither dims nor inputs are named")
        if min(*self.dims.values(), *(size for shape in self.inputs.values() for size in shape), 1, 1) < 1:
            raise ValueError("a size is less than 1")


def rewrite(model: ir.Model, o: Options) -> int:
    return fix(model, o.dims, o.inputs)
