"""Twins: small models of an architecture, from any config.json.

Few layers that show every kind of layer, small widths that keep ratios and constraints, windows and rope boundaries
short enough for a prompt of some dozen tokens to cross them.
"""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from onnxmake.model.capture.config import load_config

HEADS, HEAD = 4, 16  # attention heads, and the width that rotates in each
BOUNDARY = 16  # positions at which rope scaling sets in


def _limits(table: Mapping[int, str]) -> dict[str, int]:
    return {name: limit for limit, names in table.items() for name in names.split()}


# A setting, by the names that config classes have for it -> the most that a twin has of it. What stands nowhere here
# stays, or follows from the rest.
LIMITS = _limits(
    {
        2: """num_experts_per_tok num_experts_per_token moe_topk moe_k n_group num_expert_group topk_group
            linear_num_key_heads num_kv_shared_layers mamba_n_groups n_groups depths""",
        1: "first_k_dense_replace",
        4: "linear_num_value_heads linear_num_heads mamba_n_heads mamba_num_heads n_mamba_heads",
        8: """num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num laurel_rank block_size
            sliding_window sliding_window_size attention_chunk_size window_size attention_window_size local_attention
            index_topk floor_scale patch_size position_buckets""",
        16: """index_n_heads qk_rope_head_dim rotary_dim hidden_size_per_layer_input linear_key_head_dim linear_value_head_dim
            linear_head_dim block_multiple_of mamba_d_state state_size ssm_state_size mamba_chunk_size chunk_size
            original_max_position_embeddings""",
        24: "query_pre_attn_scalar",
        32: """kv_lora_rank qk_nope_head_dim v_head_dim index_head_dim dim_model_base mamba_d_head mamba_head_dim
            image_size""",
        48: """q_lora_rank moe_intermediate_size expert_ffn_hidden_size shared_experts_intermediate_size
            shared_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size
            max_source_positions projection_dim""",
        112: """intermediate_size n_inner ffn_dim encoder_ffn_dim decoder_ffn_dim dim_ff dff ffn_hidden_size d_inner
            intermediate_size_mlp dense_intermediate_size feed_forward_size hidden_dim""",
        160: "vocab_size vocab_size_per_layer_input decoder_vocab_size",
        256: """max_position_embeddings n_positions n_ctx max_seq_len model_max_length max_target_positions
            context_length""",
    }
)
CAPS = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}  # what random weights reach
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "decoder_start_token_id": 1}

DERIVED = {
    "id2label",
    "label2id",
    "torch_dtype",
    "dtype",
    "stage_names",
    "out_features",
    "out_indices",
}  # not of a twin's depth

ATTENTION_HEADS = [
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "attention_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "num_encoder_attention_heads",
    "num_decoder_attention_heads",
    "swa_num_attention_heads",
]
KEY_VALUE_HEADS = ["num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"]
HEAD_WIDTHS = ["head_dim", "kv_channels", "dim_head", "swa_head_dim", "attention_head_size", "d_head"]
WIDTHS = [
    "hidden_size",
    "n_embd",
    "d_model",
    "embedding_size",
    "emb_dim",
    "embedding_dim",
    "word_embed_proj_dim",
    "input_embedding_size",
    "output_embedding_size",
    "attention_hidden_size",
    "lru_width",
    "dim",
    "pooler_hidden_size",
]
DEPTHS = [
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_blocks",
]


def _layers(table: Mapping[str, Any], depth: int) -> list[int]:
    """Layers to keep: two of each kind, as the config's lists tell them apart."""
    lists = [v for v in table.values() if isinstance(v, (list, tuple)) and len(v) == depth]
    own = _own_settings(table)
    kinds = [repr([own.get(i), *(values[i] for values in lists)]) for i in range(depth)]
    kept = [i for i, kind in enumerate(kinds) if kinds[:i].count(kind) < 2]
    return kept if len(set(kinds)) > 1 else list(range(min(2, depth)))


def _own_settings(table: Mapping[str, Any]) -> dict[int, Mapping[str, int]]:
    """Settings that single layers have instead of the model's, by layer."""
    return {int(layer): settings for layer, settings in (table.get("per_layer_config") or {}).items()}


def _rope(rope: Any, width: int) -> Any:
    """Rope parameters, of one kind of layers or of each: boundaries and factor lists as short as the twin's."""
    if not isinstance(rope, Mapping):
        return rope
    if any(isinstance(v, Mapping) for v in rope.values()):
        return {key: _rope(value, width) for key, value in rope.items()}
    out = dict(rope)
    if out.get("original_max_position_embeddings"):
        out["original_max_position_embeddings"] = BOUNDARY
    factors = {key: list(out[key])[: width // 2] for key in ("short_factor", "long_factor") if key in out}
    return out | factors


def _widths(table: Mapping[str, Any], heads: int | None, hidden: int | None) -> dict[str, Any]:
    """Heads and widths by name: ratios between them are kept as far as 1, 2 and 4 can say."""
    rope = table.get("rope_parameters")
    partial = table.get("partial_rotary_factor") or (rope or {}).get("partial_rotary_factor") or 1.0
    head = min(4 * HEAD, round(HEAD / partial)) if isinstance(partial, float) else HEAD
    width, explicit = HEADS * head, next((table[k] for k in HEAD_WIDTHS if isinstance(table.get(k), int)), None)
    if explicit and heads and hidden and explicit * heads > hidden:
        head *= 2
    out: dict[str, Any] = {}
    for key, value in table.items():
        if key in HEAD_WIDTHS:
            out[key] = head
        elif not isinstance(value, int) or isinstance(value, bool):
            continue
        elif key in ATTENTION_HEADS:
            out[key] = HEADS
        elif key in KEY_VALUE_HEADS:
            out[key] = 1 if value == 1 else HEADS if value == heads else HEADS // 2
        elif key in WIDTHS:
            out[key] = width
    if "qk_rope_head_dim" in table:  # what such configs call head_dim follows from it
        out["head_dim"] = head = LIMITS["qk_rope_head_dim"]
    if isinstance(rope, Mapping):
        out["rope_parameters"] = _rope(rope, round(head * partial))
    if isinstance(inner := table.get("mamba_expand", table.get("expand")), int):  # heads times width is the inner width
        heads_of = [k for k in ("mamba_n_heads", "mamba_num_heads", "num_heads") if k in table]
        width_of = [k for k in ("mamba_d_head", "mamba_head_dim", "head_dim") if k in table]
        if heads_of and width_of:
            out |= {heads_of[0]: HEADS, width_of[0]: inner * width // HEADS}
        if table.get("mamba_d_ssm"):
            out["mamba_d_ssm"] = inner * width
    return out


def _at_most(value: Any, limit: int) -> Any:
    """A number, or each number of a list."""
    if isinstance(value, (list, tuple)):
        return [_at_most(item, limit) for item in value]
    return min(value, limit) if isinstance(value, int) else value


def twin(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a twin of the model that config.json `architecture` describes."""
    config = load_config(architecture)
    table = {k: v for k, v in config.to_dict().items() if k not in DERIVED}

    def get(name: str) -> Any:
        return table.get(config.attribute_map.get(name, name))

    limits = {
        key: limit for key, limit in LIMITS.items() if key != "image_size" or "depths" not in table
    }  # halved on and on
    small: dict[str, Any] = {
        key: _at_most(value, limits[key])
        for key, value in table.items()
        if key in limits and value is not None and not isinstance(value, bool)
    }
    small |= _widths(table, get("num_attention_heads"), get("hidden_size"))
    small |= {key: value for key, value in SPECIAL.items() if key in table}
    small |= {key: cap for key, cap in CAPS.items() if table.get(key)}
    depth = get("num_hidden_layers")
    if isinstance(depth, int):
        kept = _layers(table, depth)
        small |= {
            key: [value[i] for i in kept]
            for key, value in table.items()
            if isinstance(value, (list, tuple)) and len(value) == depth
        }
        small |= {key: len(kept) for key in DEPTHS if isinstance(table.get(key), int)}
        if own := _own_settings(table):
            small["per_layer_config"] = {
                str(i): {key: value * small.get(key, table[key]) // table[key] for key, value in own[layer].items()}
                for i, layer in enumerate(kept)
                if layer in own
            }
    parts = [key for key in config.sub_configs if (table.get(key) or {}).get("model_type") in CONFIG_MAPPING]
    return table | small | {key: twin(table[key]) for key in parts}
