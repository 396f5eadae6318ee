"""Twins for tests: architectures by name, and configurations of them that other tools get wrong."""

import json
from pathlib import Path

import torch

from onnxmake.model import reference
from onnxmake.model.sweep import default_config
from onnxmake.model.twin import twin

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + i / 8 for i in range(48)],
    "long_factor": [2.0 + i for i in range(48)],
    "original_max_position_embeddings": 4096,
}

NAMED = [
    "llama",
    "mistral",
    "ministral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "phi",
    "phi3",
    "phimoe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "smollm3",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "granite",
    "granitemoe",
    "nemotron",
    "stablelm",
    "starcoder2",
    "gpt2",
    "gpt_neox",
    "gptj",
    "opt",
    "falcon",
    "bloom",
    "mpt",
    "cohere",
    "cohere2",
    "glm",
    "glm4",
    "helium",
    "ernie4_5",
    "hunyuan_v1_dense",
    "exaone4",
    "apertus",
    "arcee",
    "seed_oss",
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "lfm2",
    "qwen3_next",
]

VARIANTS = {  # name: model_type, settings before the twin is made of it, and settings of the twin
    "llama-rope3-biases-tied": (
        "llama",
        dict(rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        {},
    ),
    "llama-linear-mqa": (
        "llama",
        dict(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, num_key_value_heads=1),
        {},
    ),
    "llama-deep": ("llama", {}, dict(num_hidden_layers=9)),
    "mistral-head-dim": ("mistral", dict(sliding_window=None), dict(head_dim=24)),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True), {}),
    "qwen2-yarn-windows": (
        "qwen2",
        dict(rope_parameters=YARN, use_sliding_window=True, max_window_layers=2, num_hidden_layers=7),
        {},
    ),
    "phi3-longrope": ("phi3", dict(rope_parameters=LONG, max_position_embeddings=131072), {}),
    "phi4-mini": (
        "phi3",
        dict(rope_parameters=DEFAULT | {"partial_rotary_factor": 0.75}, tie_word_embeddings=True),
        dict(head_dim=32, hidden_size=128),
    ),
    "gpt_neox-sequential": ("gpt_neox", dict(use_parallel_residual=False), {}),
    "olmo-clip": ("olmo", dict(clip_qkv=0.5), {}),
    "stablelm-parallel": ("stablelm", dict(use_parallel_residual=True, use_qkv_bias=True, qk_layernorm=True), {}),
    "deepseek_v3-dense": ("deepseek_v3", dict(q_lora_rank=None, first_k_dense_replace=99), {}),
    "bamba": ("bamba", {}, {}),
    "mamba": ("mamba", {}, {}),
}
TWINS = [*NAMED, *VARIANTS]
OTHERS = {"camembert-encoder": ("camembert", dict(is_decoder=False), {})}


def config_of(name: str) -> dict:
    """config.json of the twin `name`."""
    kind, before, after = (VARIANTS | OTHERS).get(name, (name, {}, {}))
    return twin(default_config(kind, **before)) | after


def make_twin(name: str, folder: Path, dtype: torch.dtype = torch.float32, max_shard_size: str = "50GB") -> Path:
    """Save the twin with random, non-trivial weights of type `dtype`. Returns `folder`."""
    return reference.make_checkpoint(config_of(name), folder, dtype, max_shard_size)


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())
