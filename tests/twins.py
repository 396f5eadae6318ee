"""Small random checkpoints of real architectures.

Few layers that keep the pattern, small widths that keep the ratios.
"""

from pathlib import Path

import torch
import transformers

SMALL = dict(
    vocab_size=160,
    hidden_size=64,
    intermediate_size=112,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 12,
}
GEMMA = dict(
    head_dim=32,
    num_hidden_layers=8,
    layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 2,
    sliding_window=8,
    query_pre_attn_scalar=32,
    rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
)

TWINS = {  # name: model_type, settings on top of SMALL
    "llama": ("llama", {}),
    "llama-rope3-biases-tied": (
        "llama",
        dict(rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    ),
    "llama-linear-mqa": (
        "llama",
        dict(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, num_key_value_heads=1),
    ),
    "llama-deep": ("llama", dict(num_hidden_layers=9)),
    "mistral-window": ("mistral", dict(sliding_window=8, num_hidden_layers=6)),
    "mistral-head-dim": ("mistral", dict(sliding_window=None, head_dim=24)),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen2-yarn-windows": (
        "qwen2",
        dict(rope_parameters=YARN, use_sliding_window=True, sliding_window=8, max_window_layers=2, num_hidden_layers=7),
    ),
    "qwen3": ("qwen3", dict(head_dim=32)),
    "phi3": ("phi3", dict(num_hidden_layers=5)),
    "phi3-window": ("phi3", dict(sliding_window=8)),
    "phi3-longrope": ("phi3", dict(rope_parameters=LONG, original_max_position_embeddings=12)),
    "phi4-mini": ("phi3", dict(partial_rotary_factor=0.75, head_dim=32, hidden_size=128, tie_word_embeddings=True)),
    "gemma3": ("gemma3_text", GEMMA),
}


def make_twin(name: str, folder: Path, dtype: torch.dtype = torch.float32, max_shard_size: str = "50GB") -> Path:
    """Save the twin with random, non-trivial weights, norms and biases included.

    The file's type is `dtype`. Returns `folder`.
    """
    kind, own = TWINS[name]
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **own})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(
                    torch.randn_like(parameter) * 0.2
                    + (1.0 if "norm" in parameter_name and kind != "gemma3_text" else 0.0)
                )
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
