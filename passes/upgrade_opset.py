"""Write the standard operators in another version of their set. Comes behind package_onnx or package_genai.

Invariant: the same computation. Each operator whose definition differs between the versions is converted by ONNX's own converter;
operators of com.microsoft, and those that are ONNX Runtime's alone, stay as they are. An older version is refused where an operator
has no form in it.
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxmake.model.opset import convert

ENVIRONMENT = "cpu"
STAGE = "model"


@dataclass(frozen=True)
class Options:
    opset: int  # of the standard operators; the graph that optimize leaves is of 21

    def __post_init__(self):
        if self.opset < 13:
            raise ValueError(f"opset = {self.opset} is older than ONNX Runtime's providers take, which is 13")


def rewrite(model: ir.Model, o: Options) -> int:
    return convert(model, o.opset)
