"""The product behind a decoder's logits, and of which tokens it is computed: generation reads those of the last one alone."""

import onnx_ir as ir

from onnxmake.model.graph import DOMAIN, array, attribute, emit, integers, produced_by

BETWEEN = {"Mul", "Div", "Tanh", "Cast", "Add"}  # of single values, such as a soft cap
PRODUCTS = {"Linear", "MatMulNBits", "FusedMatMul", "MatMul"}


def _chain(graph: ir.Graph) -> list[ir.Node]:
    """The nodes from the logits back to the product, which is the last; nothing where there is none."""
    value, found = graph.outputs[0], list[ir.Node]()
    while (node := value.producer()) is not None:
        found.append(node)
        if node.op_type in PRODUCTS:
            return found
        if node.op_type not in BETWEEN:
            break
        value = next((v for v in node.inputs if v.shape is not None and v.shape.rank() == 3), node.inputs[0])
    return []


def product_of(graph: ir.Graph) -> ir.Node | None:
    """The product behind the logits, whatever its form."""
    chain = _chain(graph)
    return chain[-1] if chain else None


def find_head(graph: ir.Graph) -> ir.Node | None:
    """The Linear op behind the logits."""
    chain = _chain(graph)
    return chain[-1] if chain and chain[-1].domain == DOMAIN else None


def _of_one(chain: list[ir.Node], count: int | str) -> None:
    for node in chain:
        batch, _, width = node.outputs[0].shape
        node.outputs[0].shape = ir.Shape([batch, count, width])


def last_token_only(graph: ir.Graph) -> None:
    """Let the logits be [batch, 1, vocabulary], those of the last token: the head is a fourth of a small model's prompt."""
    chain = _chain(graph)
    if not chain:
        return
    x = chain[-1].inputs[0]
    last = emit(chain[-1], "Gather", [x, integers(graph, [-1])], [x.shape[0], 1, x.shape[2]], dtype=x.dtype, axis=1)
    chain[-1].replace_input_with(0, last)
    _of_one(chain, 1)


def every_token(graph: ir.Graph) -> bool:
    """Take that back. Whether there was anything to take back."""
    chain = _chain(graph)
    gather = produced_by(chain[-1].inputs[0], "Gather") if chain else None
    if gather is None or attribute(gather, "axis", 0) != 1 or array(gather.inputs[1]).tolist() != [-1]:
        return False
    x = gather.inputs[0]
    chain[-1].replace_input_with(0, x)
    graph.remove(gather, safe=True)
    _of_one(chain, "sequence")
    return True
