"""The configuration that ONNX Runtime GenAI reads beside a model."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir


def _tokens(name: str, *sources: Mapping):
    return next((s[name] for s in sources if s.get(name) is not None), None)


def genai_config(graph: ir.Graph, config: Mapping, generation: Mapping, options: Sequence[Mapping] = ()) -> dict:
    """genai_config.json for a decoder graph and the checkpoint's config.json and generation_config.json.

    `options` are provider options. Past and present share a buffer where every layer's attention writes in place.
    """
    inputs, outputs = {v.name: v for v in graph.inputs}, [v.name for v in graph.outputs]
    heads = inputs["past_key_values.0.key"].shape
    eos = _tokens("eos_token_id", generation, config)
    pad = _tokens("pad_token_id", generation, config)
    ends = eos if isinstance(eos, list) else [eos]
    context = config["max_position_embeddings"]
    names = {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "position_ids": "position_ids",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    shared = all(v.producer().op_type == "GroupQueryAttention" for v in graph.outputs if v.name.startswith("present."))
    present = {key: name for key, name in names.items() if name.replace("%d", "0") in inputs}
    search = {
        key: generation[key]
        for key in ("do_sample", "repetition_penalty", "temperature", "top_k", "top_p")
        if generation.get(key) is not None
    }
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": _tokens("bos_token_id", generation, config) or 0,
            "eos_token_id": eos,
            "pad_token_id": ends[0] if pad is None else pad,
            "vocab_size": config["vocab_size"],
            "context_length": context,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": list(options)},
                "head_size": heads[3],
                "hidden_size": config["hidden_size"],
                "num_attention_heads": config["num_attention_heads"],
                "num_key_value_heads": heads[1],
                "num_hidden_layers": sum(name.startswith("present.") for name in outputs) // 2,
                "inputs": present,
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, "max_length": context, "past_present_share_buffer": shared, **search},
    }
