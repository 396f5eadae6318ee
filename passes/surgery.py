"""A small rewrite of the graph, by name: one of the files in onnxmake/model/surgeries, whose docstrings say what each does.

Comes behind optimize, where `doit check` compares what it leaves on a twin, or behind package_onnx or package_genai; those that change
inputs and outputs, only there. Invariant: the same computation, where the surgery does not say what differs.
"""

from dataclasses import dataclass, field

import onnx_ir as ir

from onnxmake.model.surgeries import Surgery, operate

ENVIRONMENT = "cpu"
STAGE = "graph model"


@dataclass(frozen=True)
class Options:
    name: Surgery
    names: dict[str, str] = field(default_factory=dict)  # of surgeries that rename: old -> new
    values: tuple[str, ...] = ()  # of those that work on inputs, outputs or values, by name
    value: float = -10000.0  # of soften_mask


def rewrite(model: ir.Model, o: Options) -> int:
    return operate(model, o.name, o)
