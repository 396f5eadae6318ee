"""What a traced graph needs before it is a semantic graph: weights by name, plain dimensions, constant shapes."""

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.capture.sources import Source
from onnxmake.model.capture.stamp import ends
from onnxmake.model.capture.states import State
from onnxmake.model.graph import DOMAIN, attribute, emit, integers, nodes, prune, replace


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


def plain_dimensions(graph: ir.Graph, dimensions: Sequence[Sequence[str | None]]) -> None:
    """Give each input's dimensions the names in `dimensions`; torch has a symbol of its own for each."""
    names = {
        str(dim): name
        for value, dims in zip(graph.inputs, dimensions)
        for dim, name in zip(value.shape, dims)
        if name and not isinstance(dim, int)
    }
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
    for node in nodes(graph, "Softmax"):  # the converter leaves it bare where a type is asked for
        node.outputs[0].shape, node.outputs[0].type = node.inputs[0].shape, node.inputs[0].type
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


def name_values(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """The first inputs and outputs by these names, states as they are named, the rest by number."""
    states = {*graph.inputs[len(inputs) :], *graph.outputs[len(outputs) :]}
    for i, value in enumerate(v for node in graph for v in node.outputs):
        if value not in states:
            value.name = f"v{i}"
    for value, name in zip([*graph.inputs[: len(inputs)], *graph.outputs[: len(outputs)]], [*inputs, *outputs]):
        value.name = name
    for i, node in enumerate(graph):
        node.name = f"n{i}"


def name_states(graph: ir.Graph, states: Sequence[State]) -> None:
    """past_key_values.N.key, .value, .conv_state and .recurrent_state in, present.N.* out."""
    for state, past, present in zip(states, *ends(graph, len(states))):
        if present in graph.inputs or present.producer() is None:
            raise UnsupportedError(
                f"Layer {state.layer} hands its {state.kind} state on without a change.",
                "The layer keeps something else than its cache says.",
                "Report the model.",
            )
        past.name, present.name = (f"{kind}.{state.layer}.{state.name}" for kind in ("past_key_values", "present"))
        if state.growing:
            shape = list(past.shape)
            shape[state.growing] = "total"
            present.shape = ir.Shape(shape)


def _of(parts: Sequence[Source]) -> str:
    names = list(dict.fromkeys(p.name for p in parts))
    return (
        f"Tensor {names[0]} is"
        if len(names) == 1
        else f"The {len(names)} tensors from {names[0]} to {names[-1]} make one"
    )


def checkpoint_names(
    graph: ir.Graph,
    aliases: Mapping[str, list[str]],
    found: Mapping[str, tuple[list[Source], bool, list[int]]],
    tensors: Mapping[str, list[int]],
    ignored: list[str],
) -> None:
    """Let every Weight refer to tensors of the checkpoint, where one of the parameter's names is `found`.

    `tensors` is name -> shape. Raises CheckpointError for a missing, misshapen or unused tensor; names that match a
    pattern in `ignored` may be unused.
    """
    missing = []
    for node in nodes(graph, "Weight"):
        name = attribute(node, "parts")[0].removeprefix("model.")
        shape = list(node.outputs[0].shape)
        known = next((found[n] for n in aliases.get(name, [name]) if n in found), None)
        if known is None:
            missing.append(name)
            continue
        parts, transposed, leading = known
        first = tensors[parts[0].name]
        stored = [*leading, first[-2 if transposed else -1]] if first else []
        if stored != shape:
            raise CheckpointError(
                f"{_of(parts)} of shape {stored}; config.json asks for {shape}.",
                "config.json and the weights are of different models, or a shard was not copied.",
                "Fetch all files again from the same commit.",
            )
        node.attributes["parts"] = ir.AttrStrings("parts", [p.name for p in parts])
        if not all(p.whole for p in parts):
            node.attributes["rows"] = ir.AttrInt64s("rows", [n for p in parts for n in (p.start, p.end)])
        if transposed:
            node.attributes["transposed"] = ir.AttrInt64("transposed", 1)
    if missing:
        raise CheckpointError(
            f"The checkpoint lacks {len(missing)} tensors, the first is {sorted(missing)[0]}.",
            "A shard was not copied, or config.json describes another model.",
            "Compare the files with those of the model's repository.",
        )
    used = {p.name for parts, _, _ in found.values() for p in parts}
    unused = sorted(n for n in set(tensors) - used if not any(re.search(p, n) for p in ignored))
    if unused:
        raise CheckpointError(
            f"The model does not use {len(unused)} tensors of the checkpoint, the first is {unused[0]}.",
            "config.json names another architecture than the one the weights belong to.",
            "Check architectures and model_type in config.json.",
        )
