"""Constants that hold a float type's lowest value, as masks do, -> `value`, which calibration and 16 bits bear: -10000 unless said.

Constants, what ConstantOfShape fills with, and initializers of up to 64 values. Where all scores of a row are masked, they differ.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import nodes

LOWEST = -60000.0  # below it are the lowest of float16 and all larger types


def _low(tensor: ir.TensorProtocol | None) -> bool:
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.size > 64:
        return False
    return bool((tensor.numpy() <= LOWEST).any())


def before(graph: ir.Graph, o: Any) -> Iterable[ir.Node | ir.Value]:
    made = [n for n in nodes(graph, "Constant", "ConstantOfShape") if "value" in n.attributes]
    held = [n for n in made if _low(n.attributes["value"].value)]
    return [*held, *(v for v in graph.initializers.values() if _low(v.const_value))]


def _raised(tensor: ir.TensorProtocol, o: Any) -> ir.Tensor:
    values = tensor.numpy()
    return ir.tensor(np.where(values <= LOWEST, o.value, values).astype(values.dtype), tensor.dtype, tensor.name)


def after(place: ir.Node | ir.Value, o: Any) -> None:
    if isinstance(place, ir.Value):
        place.const_value = _raised(place.const_value, o)
    else:
        place.attributes["value"] = ir.AttrTensor("value", _raised(place.attributes["value"].value, o))
