"""One form for equal graphs, so that equal models are equal bytes; and the checks that every saved graph passes."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, TopologicalSortPass

from onnxmake.errors import PassError
from onnxmake.model.graph import CONTRIB, DOMAIN, prune

IR_VERSION = 10  # the newest that every supported runtime reads, DirectML's included


def canonicalize(model: ir.Model) -> None:
    """Merge equal nodes, drop unused ones, metadata and doc strings, order topologically, and number values and nodes
    in that order."""
    graph = model.graph
    TopologicalSortPass()(model)
    CommonSubexpressionEliminationPass()(model)
    prune(graph)
    model.ir_version, model.producer_name, model.producer_version, model.doc_string = IR_VERSION, "onnxmake", None, None
    for holder in (model, graph, *graph, *graph.inputs, *graph.outputs):
        holder.metadata_props.clear()
        holder.doc_string = None
    graph.name = "main"
    kept = {v.name for v in (*graph.inputs, *graph.outputs)}
    for i, node in enumerate(graph):
        node.name = f"{node.op_type}_{i}"
        for j, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if value.name not in kept and value.uses():
                value.name = f"{node.name}.{j}"
    used = {node.domain for node in graph}
    versions = {"": model.opset_imports.get("", 21), CONTRIB: 1, DOMAIN: 1}
    model.opset_imports.clear()
    model.opset_imports.update({domain: versions[domain] for domain in sorted(versions) if domain in used | {""}})
    for initializer in sorted(graph.initializers):
        graph.initializers[initializer] = graph.initializers.pop(initializer)


def verify(model: ir.Model) -> None:
    """Raise PassError where a value is used before it is made, has no type, or a name stands twice."""
    graph = model.graph
    known = {v for v in (*graph.inputs, *graph.initializers.values())}
    names = [v.name for v in known]
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise PassError(
                    f"{node.op_type} node {node.name} reads {value.name!r}, which nothing makes.",
                    "The pass left a graph with loose ends.",
                    "This is a bug in the pass.",
                )
        known.update(node.outputs)
        names += [v.name for v in node.outputs if v.name]
    if double := sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []:
        raise PassError(
            f"The name {double[0]!r} stands for two values.",
            "The pass left a graph with equal names.",
            "This is a bug in the pass.",
        )
    for value in graph.outputs:
        if value not in known or value.dtype is None:
            raise PassError(
                f"Output {value.name!r} is made by no node or has no type.",
                "The pass lost it.",
                "This is a bug in the pass.",
            )


def save(model: ir.Model, path: Path) -> None:
    """Canonicalise, verify and write `path`; external data is left where it is."""
    canonicalize(model)
    verify(model)
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
