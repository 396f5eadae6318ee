"""What is known of shapes."""

import onnx_ir as ir


def same(first: ir.Shape | None, second: ir.Shape | None) -> bool:
    """Whether two shapes are known to be equal: a dimension without a name may be any number."""
    if first is None or second is None:
        return False
    return first == second and all(isinstance(dim, int) or dim.value is not None for dim in first)
