"""What a traced program computes of constants by functions that ONNX lacks: computed here."""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

LACKING = (torch.ops.aten.erfinv.default,)


def _value(node: Node, constants: dict[str, Any]) -> Any:
    """Raises KeyError where it depends on an input."""
    if node.op == "placeholder":
        return constants[node.name].clone()
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: _value(n, constants))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def fold(program: ExportedProgram) -> None:
    """Put the number itself in place of each of these functions, if it is one, and depends on constants alone."""
    signature = program.graph_signature.inputs_to_lifted_tensor_constants
    constants = {name: program.constants[target] for name, target in signature.items()}
    for node in [n for n in program.graph.nodes if n.target in LACKING]:
        try:
            value = _value(node, constants)
        except KeyError:
            continue  # and the converter says that it knows no such function
        if value.ndim:
            continue
        with program.graph.inserting_before(node):
            number = program.graph.call_function(
                torch.ops.aten.full.default, ([], value.item()), {"dtype": value.dtype}
            )
        number.meta = dict(node.meta)
        node.replace_all_uses_with(number)
        program.graph.erase_node(node)
