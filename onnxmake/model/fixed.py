"""Numbers in place of names of sizes, in every shape of a model."""

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from onnxmake.errors import PassError, TargetError
from onnxmake.model.border import named, need_packaged
from onnxmake.model.nearest import nearest

SUM = ("past", "sequence", "total")  # the last is the sum of the others
Sizes = dict[str, int]


def _is_name(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is not None


def _names(graph: ir.Graph) -> set[str]:
    """Of the sizes that the inputs leave free."""
    return {str(dim.value) for value in graph.inputs for dim in value.shape or () if _is_name(dim)}


def _note(sizes: Sizes, name: str, size: int, by: str) -> None:
    if sizes.setdefault(name, size) != size:
        raise TargetError(
            f"The size {name} is {sizes[name]} and, by {by}, {size}.",
            "Inputs share sizes by name, and past and sequence add up to total.",
            "Give each size one number.",
        )


def _sizes(graph: ir.Graph, dims: Mapping[str, int], inputs: Mapping[str, Sequence[int]]) -> Sizes:
    """Name -> number of what is to be fixed. Raises TargetError."""
    free, sizes = _names(graph), Sizes()
    for name, size in dims.items():
        if name not in free:
            raise TargetError(f"No size is named {name!r}.", "The inputs leave no such size free.", nearest(name, free))
        _note(sizes, name, size, "dims")
    for value in named(graph.inputs, inputs, "input"):
        given, shape = inputs[value.name], list(value.shape or ())
        if len(given) != len(shape) or any(isinstance(d, int) and d != s for d, s in zip(shape, given)):
            known = ", ".join(map(str, shape))
            raise TargetError(
                f"{value.name} = {list(given)} does not fit its shape [{known}].",
                "It has another number of sizes, or one that the model fixes.",
                f"Give {len(shape)} sizes.",
            )
        for dim, size in zip(shape, given):
            if _is_name(dim):
                _note(sizes, str(dim.value), size, value.name)
    return _with_sum(sizes) if free.issuperset(SUM) else sizes


def _with_sum(sizes: Sizes) -> Sizes:
    past, sequence, total = map(sizes.get, SUM)
    if past is not None and sequence is not None:
        _note(sizes, SUM[2], past + sequence, "past and sequence")
    elif total is not None and (known := past if sequence is None else sequence) is not None:
        if known >= total:
            raise TargetError(
                f"total = {total} leaves nothing beside {known}.",
                "It is past and sequence together.",
                "Make it larger.",
            )
        _note(sizes, SUM[1] if sequence is None else SUM[0], total - known, "total")
    return sizes


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """All that have a shape to tell, those of subgraphs included."""
    for graph in model.graphs():
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _substituted(model: ir.Model, sizes: Sizes) -> None:
    for value in _values(model):
        if value.shape is not None:
            dims = [sizes.get(str(d.value), d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
            value.shape = ir.Shape(dims)


def _inferred(model: ir.Model) -> dict[str, list[int | None]]:
    """Value -> sizes that ONNX finds from the inputs and from ops it does not know, for the main graph."""
    proto = ir.to_proto(model)
    own = {name for node in proto.graph.node if node.domain == "" for name in node.output}
    told = [info for info in proto.graph.value_info if info.name not in own]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(told)
    for output in proto.graph.output:
        if output.name in own:
            output.type.tensor_type.ClearField("shape")
    try:
        found = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise PassError(
            f"These sizes do not fit the model: {str(error).splitlines()[0]}",
            "An operator takes no inputs of such shapes.",
            "Give other sizes.",
        ) from error
    shapes = ((info.name, info.type.tensor_type) for info in (*found.value_info, *found.output))
    return {
        name: [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        for name, tensor in shapes
        if tensor.HasField("shape")
    }


def _merge(value: ir.Value, found: Sequence[int | None]) -> None:
    """Fill in what is not a number yet. Raises PassError where numbers differ."""
    known = list(value.shape) if value.shape is not None else [None] * len(found)
    pairs = list(zip(known, found))
    if len(known) != len(found) or any(isinstance(k, int) and f is not None and k != f for k, f in pairs):
        raise PassError(
            f"{value.name} has the shape {known}, and ONNX infers {list(found)}.",
            "The sizes do not go together, or a value has a wrong shape.",
            "Give other sizes.",
        )
    value.shape = ir.Shape([f if f is not None else k for k, f in pairs])


def fix(model: ir.Model, dims: Mapping[str, int], inputs: Mapping[str, Sequence[int]]) -> int:
    """Change shapes in place. Returns the number of sizes of inputs that became numbers.

    Raises TargetError for names that there are not and numbers that contradict each other, PassError where the model does not
    take them, or is not packaged.
    """
    need_packaged(model.graph, "fix_shapes")
    sizes = _sizes(model.graph, dims, inputs)
    count = sum(str(d.value) in sizes for v in model.graph.inputs for d in v.shape or () if _is_name(d))
    if count:
        _substituted(model, sizes)
        found = _inferred(model)
        for value in (output for node in model.graph for output in node.outputs):
            if value.name in found:
                _merge(value, found[value.name])
    return count
