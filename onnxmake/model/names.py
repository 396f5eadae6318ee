"""What config classes call their settings, and the most that a twin has of each."""

from collections.abc import Mapping

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
