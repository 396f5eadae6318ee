"""What a traced graph needs before it is a semantic graph: weights by name, plain dimensions, constant shapes."""

import re
from collections.abc import Mapping

import onnx_ir as ir

from onnxmake.errors import CheckpointError
from onnxmake.model.graph import DOMAIN, emit, integers, nodes, prune, replace


def weights_by_name(graph: ir.Graph, parameters: set[str]) -> None:
    """Each initializer that is a parameter becomes a Weight node: a reference, no bytes."""
    for name in sorted(parameters & set(graph.initializers)):
        value = graph.initializers[name]
        first = min((node for node, _ in value.uses()), key=_order(graph).__getitem__)
        weight = emit(first, "Weight", [], value.shape, DOMAIN, value.dtype, parts=[name])
        ir.convenience.replace_all_uses_with(value, weight)
        graph.initializers.pop(name)


def _order(graph: ir.Graph) -> dict[ir.Node, int]:
    return {node: i for i, node in enumerate(graph)}


def plain_dimensions(graph: ir.Graph) -> None:
    """Name the dimensions batch, sequence, past and total; torch gives each input dimension a symbol of its own."""
    names: dict[str, str] = {}
    ids, mask, positions, *past = graph.inputs
    for value, dims in [
        (ids, ("batch", "sequence")),
        (mask, ("batch", "total")),
        (positions, ("batch", "sequence")),
        *((v, ("batch", None, "past", None)) for v in past),
    ]:
        names |= {str(dim): name for dim, name in zip(value.shape, dims) if name}
    for value in [*graph.inputs, *(v for node in graph for v in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    d if isinstance(d, int) else re.sub(r"\w+", lambda m: names.get(m[0], m[0]), str(d))
                    for d in value.shape
                ]
            )


def constant_shapes(graph: ir.Graph) -> None:
    """Remove operations that change no shape and give Reshape a constant target, as the values' own shapes allow."""
    for node in nodes(graph, "Slice", "Expand", "Cast", "Reshape", "Identity"):
        source, out = node.inputs[0], node.outputs[0]
        if source.shape is None or out.shape is None:
            continue
        if source.shape == out.shape and source.dtype == out.dtype:
            replace(node, [source])
        elif node.op_type == "Reshape":
            target = [
                d if isinstance(d, int) else 0 if i < len(source.shape) and d == source.shape[i] else -1
                for i, d in enumerate(out.shape)
            ]
            if target.count(-1) <= 1:
                node.replace_input_with(1, integers(graph, target))
                node.attributes.pop("allowzero", None)
    prune(graph)


def name_values(graph: ir.Graph) -> None:
    """Inputs and outputs as GenAI expects them, the rest by number."""
    for i, value in enumerate(v for node in graph for v in node.outputs):
        value.name = f"v{i}"
    for value, name in zip(graph.inputs, ("input_ids", "attention_mask", "position_ids")):
        value.name = name
    graph.outputs[0].name = "logits"
    for kind, values in (("past_key_values", graph.inputs[3:]), ("present", graph.outputs[1:])):
        for i, value in enumerate(values):
            value.name = f"{kind}.{i // 2}.{('key', 'value')[i % 2]}"
            if kind == "present":
                value.shape = ir.Shape([*list(value.shape)[:2], "total", value.shape[3]])
    for i, node in enumerate(graph):
        node.name = f"n{i}"


def checkpoint_names(
    graph: ir.Graph, aliases: dict[str, list[str]], tensors: Mapping[str, list[int]], ignored: list[str]
) -> None:
    """Let every Weight refer to a tensor of the checkpoint: by one of the parameter's names.

    With or without the base model's prefix.

    `tensors` is name -> shape. Raises CheckpointError for a missing, misshapen or unused tensor; names that match a
    pattern in `ignored` may be unused.
    """
    used, missing = set(), []
    for node in nodes(graph, "Weight"):
        (name,) = node.attributes["parts"].value
        found = next((n for n in aliases.get(name, [name]) if n in tensors), None)
        if found is None:
            missing.append(name.removeprefix("model."))
            continue
        if tensors[found] != list(node.outputs[0].shape):
            raise CheckpointError(
                f"Tensor {found} has shape {tensors[found]}; config.json asks for {list(node.outputs[0].shape)}.",
                "config.json and the weights are of different models.",
                "Fetch both files again from the same commit.",
            )
        node.attributes["parts"] = ir.AttrStrings("parts", [found])
        used.add(found)
    if missing:
        raise CheckpointError(
            f"The checkpoint lacks {len(missing)} tensors, the first is {sorted(missing)[0]}.",
            "A shard was not copied, or config.json describes another model.",
            "Compare the files with those of the model's repository.",
        )
    unused = sorted(n for n in set(tensors) - used if not any(re.search(p, n) for p in ignored))
    if unused:
        raise CheckpointError(
            f"The model does not use {len(unused)} tensors of the checkpoint, the first is {unused[0]}.",
            "config.json names another architecture than the one the weights belong to.",
            "Check architectures and model_type in config.json.",
        )
