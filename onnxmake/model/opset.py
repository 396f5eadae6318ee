"""Another version of the standard operators: an operator at a time, so that ONNX's converter sees none that it does not know."""

import onnx
import onnx_ir as ir

from onnxmake.errors import PassError, TargetError
from onnxmake.model.border import need_packaged

SMALL = 1024  # values of a constant that an adapter may want to read, such as axes


def _since(op: str, opset: int) -> int | None:
    """The version that defined the operator as `opset` has it; None where it has none of the name."""
    try:
        return onnx.defs.get_schema(op, opset, "").since_version
    except onnx.defs.SchemaError:
        return None


def _small(tensor: ir.TensorProtocol | None) -> bool:
    """Whether it is a constant of the graph's own: weights and scales stand in a file, and no adapter reads those."""
    return tensor is not None and tensor.size <= SMALL and not isinstance(tensor, ir.ExternalTensor)


def _alone(node: ir.Node, opset: int) -> onnx.ModelProto:
    """A model of the one operator."""
    read = {v.name: v for v in node.inputs if v is not None}
    constants = {n: v for n, v in read.items() if _small(v.const_value)}
    given = [ir.to_proto(value) for name, value in read.items() if name not in constants]
    graph = onnx.helper.make_graph(
        [ir.to_proto(node)],
        "one",
        given,
        [ir.to_proto(value) for value in node.outputs if value.name],
        [onnx.numpy_helper.from_array(value.const_value.numpy(), name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)


def _refused(node: ir.Node, opset: int, why: str) -> PassError:
    return PassError(
        f"{node.op_type} has no form in opset {opset}: {why}.",
        "The operator, or how it is used here, came with a later version.",
        "Choose a later opset.",
    )


def _converted(node: ir.Node, old: int, new: int) -> ir.Graph:
    """What takes the operator's place, in a graph of its own."""
    try:
        return ir.from_proto(onnx.version_converter.convert_version(_alone(node, old), new)).graph
    except RuntimeError as error:
        raise _refused(node, new, str(error).splitlines()[0].rpartition("failed: ")[2]) from error


def _need_runtime(opset: int) -> None:
    """Raises TargetError where ONNX Runtime does not load models of the version."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "one", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Fail as error:
        raise TargetError(
            f"ONNX Runtime {onnxruntime.__version__} loads no model of opset {opset}.",
            "It takes released versions up to its own.",
            "Write an older opset.",
        ) from error


def _splice(node: ir.Node, made: ir.Graph) -> None:
    """Put the nodes of `made`, whose inputs and outputs bear the names of the node's, in its place."""
    graph, prefix = node.graph, node.name
    outer = {v.name: v for v in node.inputs if v is not None}
    for name, value in made.initializers.items():
        if name not in outer:
            value.name = f"{prefix}.{name}"
            outer[name] = value
    given = {value: outer[name] for name, value in made.initializers.items() if name in outer}
    given |= {value: outer[value.name] for value in made.inputs if value.name in outer}
    for old, new in given.items():
        if old is not new:
            ir.convenience.replace_all_uses_with(old, new)
    for value in [v for v in given.values() if v.producer() is None and v not in {*node.inputs}]:
        graph.register_initializer(value)
    results = {value.name: value for value in made.outputs}
    parts = list(made)
    made.outputs.clear()
    for part in parts:
        made.remove(part)
        graph.insert_before(node, part)
    for old in [v for v in node.outputs if v.name in results]:
        new = results[old.name]
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = f"{old.name}.old"
    graph.remove(node, safe=True)


def convert(model: ir.Model, opset: int) -> int:
    """Change the model in place to the standard operators of version `opset`. Returns 0 where it has that version, else 1 and the
    number of operators that were converted.

    Raises TargetError for a version that ONNX or ONNX Runtime do not know, PassError before packaging and for an operator without a form in it.
    """
    need_packaged(model.graph, "upgrade_opset")
    old, latest = model.opset_imports[""], onnx.defs.onnx_opset_version()
    if opset == old:
        return 0
    if opset > latest:
        raise TargetError(
            f"There is no opset {opset}.",
            f"The newest that onnx {onnx.__version__} knows is {latest}.",
            "Write an older one.",
        )
    _need_runtime(opset)
    changed = []
    for graph in model.graphs():
        for node in (n for n in graph if n.domain == ""):
            before, after = _since(node.op_type, old), _since(node.op_type, opset)
            if before is not None and after is None:
                raise _refused(node, opset, f"it came with opset {before}")
            if before != after and before is not None:
                changed.append(node)
    for node in changed:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            if opset < old:
                raise _refused(node, opset, "the converter does not take operators with graphs inside back")
            continue  # later versions took further types, and no other form
        _splice(node, _converted(node, old, opset))
    for graph in model.graphs():
        graph.opset_imports[""] = opset
    return 1 + len(changed)
