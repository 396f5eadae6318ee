"""The configuration that ONNX Runtime GenAI reads beside a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxmake.model.graph import attribute, emit, integers, nodes

# GenAI's word for each kind of state: of its input's name and of its output's
STATES = {"key": "key", "value": "value", "conv_state": "conv", "recurrent_state": "recurrent"}
LENGTHS = [
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
    "context_length",
    "model_max_length",
    "max_target_positions",
]  # what configurations call the longest context


def _tokens(name: str, *sources: Mapping) -> Any:
    return next((s[name] for s in sources if s.get(name) is not None), None)


def _context(config: Mapping) -> int:
    return next((config[name] for name in LENGTHS if isinstance(config.get(name), int)), 2048)


def _decoder(graph: ir.Graph) -> dict[str, Any]:
    """What the graph says of itself: names of inputs and outputs, layers and heads."""
    inputs = {v.name: v for v in graph.inputs}
    states = [name.split(".") for name in inputs if name.startswith("past_key_values.")]
    kinds = {kind for _, _, kind, *_ in states}
    key = next((v for name, v in inputs.items() if name.endswith(".key")), None)
    heads = [attribute(node, "num_heads") for node in nodes(graph, "GroupQueryAttention")]
    named = {name: name for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
    past = {f"past_{STATES[kind]}_names": f"past_key_values.%d.{kind}" for kind in STATES if kind in kinds}
    present = {f"present_{STATES[kind]}_names": f"present.%d.{kind}" for kind in STATES if kind in kinds}
    described: dict[str, Any] = {"num_hidden_layers": 1 + max(int(layer) for _, layer, *_ in states)}
    if key is not None:
        described |= {"head_size": key.shape[3], "num_key_value_heads": key.shape[1]}
        described["num_attention_heads"] = heads[0] if heads else key.shape[1]
    if kinds == {"key", "value", "conv_state"}:  # GenAI keeps these in a cache of its own
        convolved = {int(layer) for _, layer, kind, *_ in states if kind == "conv_state"}
        layers = range(described["num_hidden_layers"])
        described["layer_types"] = ["conv" if i in convolved else "full_attention" for i in layers]
    return {"inputs": named | past, "outputs": {"logits": "logits", **present}, **described}


def equal_widths(graph: ir.Graph) -> None:
    """Pad past and present keys or values to the width of the wider: GenAI has one head size for both.

    Keys and values differ where a layer keeps them compressed (multi-head latent attention).
    """
    pairs: dict[str, dict[str, ir.Value]] = {}
    for value in (*graph.inputs, *graph.outputs):
        kind, _, rest = value.name.partition(".")
        layer, _, side = rest.partition(".")
        if side in ("key", "value"):
            pairs.setdefault(f"{kind}.{layer}", {})[side] = value
    for name, pair in pairs.items():
        wide = max(value.shape[3] for value in pair.values())
        for value in (v for v in pair.values() if v.shape[3] < wide):
            (_widen_output if name.startswith("present") else _widen_input)(graph, value, wide)


def _widened(value: ir.Value, wide: int, name: str | None) -> ir.Value:
    return ir.Value(name=name, type=value.type, shape=ir.Shape([*list(value.shape)[:3], wide]))


def _widen_input(graph: ir.Graph, value: ir.Value, wide: int) -> None:
    padded, first = _widened(value, wide, value.name), next(iter(graph))
    bounds = [integers(graph, [i]) for i in (0, value.shape[3], -1)]
    narrow = emit(first, "Slice", [padded, *bounds], value.shape, dtype=value.dtype)
    ir.convenience.replace_all_uses_with(value, narrow)
    graph.inputs[graph.inputs.index(value)] = padded


def _widen_output(graph: ir.Graph, value: ir.Value, wide: int) -> None:
    node, name, index = value.producer(), value.name, graph.outputs.index(value)
    pads = integers(graph, [*[0] * 7, wide - value.shape[3]])
    padded = ir.node("Pad", [value, pads])
    padded.outputs[0].type, padded.outputs[0].shape = value.type, ir.Shape([*list(value.shape)[:3], wide])
    graph.insert_after(node, padded)
    value.name, padded.outputs[0].name = f"{name}.narrow", name
    graph.outputs[index] = padded.outputs[0]


def genai_config(graph: ir.Graph, config: Mapping, generation: Mapping, options: Sequence[Mapping] = ()) -> dict:
    """genai_config.json for a decoder graph and the checkpoint's config.json and generation_config.json.

    `options` are provider options. Past and present share a buffer where every layer's attention writes in place, and nothing
    else reads the past: a shared buffer is as long as the longest text, and its length says nothing.
    """
    eos = _tokens("eos_token_id", generation, config)
    pad = _tokens("pad_token_id", generation, config)
    ends = eos if isinstance(eos, list) else [eos]
    context, logits = _context(config), next(v for v in graph.outputs if v.name == "logits")
    writers = [v.producer() for v in graph.outputs if v.name.startswith("present.")]
    readers = [node for v in graph.inputs if v.name.startswith("past_key_values.") for node, _ in v.uses()]
    shared = all(node.op_type == "GroupQueryAttention" for node in (*writers, *readers))
    decoder = _decoder(graph)
    search = {
        key: generation[key]
        for key in ("do_sample", "repetition_penalty", "temperature", "top_k", "top_p")
        if generation.get(key) is not None
    }
    return {
        "model": {
            "type": "lfm2" if "layer_types" in decoder else "decoder",
            "bos_token_id": _tokens("bos_token_id", generation, config) or 0,
            "eos_token_id": eos,
            "pad_token_id": ends[0] if pad is None else pad,
            "vocab_size": logits.shape[-1],
            "context_length": context,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": list(options)},
                **decoder,
            },
        },
        "search": {"do_sample": False, "max_length": context, "past_present_share_buffer": shared, **search},
    }
