"""What config.json and the names of a checkpoint's files say of a model: the facts that decisions.toml asks about."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from onnxmake.errors import CheckpointError
from onnxmake.model import architecture
from onnxmake.model.foreign import instead, weights_of
from onnxmake.model.groupings import Grouping
from onnxmake.model.options import BlockOptions
from onnxmake.model.schemes import Scheme, scheme_of

NAMES = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
)  # the small files that are read, the first of them always
BLOCKS = get_args(get_type_hints(BlockOptions)["block_size"])
EMBEDDED = (
    "word_embed_proj_dim",
    "embedding_size",
    "n_embd",
    "d_model",
    "dim",
    "hidden_size",
)  # widths of look-ups of tokens
INNER = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_dim")  # of a mixture's experts
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
POOLS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # of a value


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if type(config.get(name)) is int), None)


def _read(folder: Path, name: str) -> Any:
    try:
        found = json.loads((folder / name).read_text("utf-8")) if (folder / name).is_file() else None
        if name == NAMES[0] and not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise CheckpointError(
            f"{name} is not a JSON object: {error}.",
            "The file is damaged, or an error page was saved in its place.",
            "Fetch the file again.",
        ) from error
    return found


def _kind(config: Mapping[str, Any], files: Mapping[str, int]) -> str:
    """decoder, text (an encoder of it), vision, towers (of text and pictures), pair (encoder and decoder), or multimodal."""
    towers = [key for key in config if key in ("text_config", "vision_config", "audio_config") and config[key]]
    if architecture.is_decoder(config):
        return "multimodal" if towers else "decoder"
    if towers:
        return "towers" if {"text_config", "vision_config"} <= {*towers} else "multimodal"
    if config.get("is_encoder_decoder"):
        return "pair"
    sees = {"num_channels", "image_size"} & {*config} or "Image" in str(architecture.class_name(config))
    return "vision" if sees or ("preprocessor_config.json" in files and "vocab_size" not in config) else "text"


def _mixture(config: Mapping[str, Any]) -> bool:
    return any("expert" in key and value for key, value in config.items())


def block(config: Mapping[str, Any]) -> int:
    """The largest block size that divides the widths of what is read in whole blocks, tokens' embeddings and experts; 0 for none."""
    experts = [("hidden_size", "n_embd", "d_model"), INNER] if _mixture(config) else []
    widths = [_first(config, names) for names in (EMBEDDED, *experts)]
    return max((size for size in BLOCKS if all(width and width % size == 0 for width in widths)), default=0)


def _pooling(folder: Path) -> dict[str, Any]:
    """How sentence-transformers makes one vector of a text, where the checkpoint is one of theirs."""
    modules = [str(module.get("type")).rsplit(".", 1)[-1] for module in _read(folder, "modules.json") or ()]
    modes = [
        name
        for name, on in (_read(folder, "1_Pooling/config.json") or {}).items()
        if name.startswith("pooling_mode") and on is True
    ]
    further = [name for name in modules if name not in ("Transformer", "Pooling", "Normalize")]
    known = POOLS.get(modes[0]) if len(modes) == 1 else None
    asked = (known or "other") if modes else "other" if further else "none"
    return {
        "pooling": "other" if further else asked,
        "pooled_by": ", ".join([*modes, *further]),
        "normalize": "Normalize" in modules,
    }


def _stored(scheme: Scheme | Grouping | None) -> str:
    """floats, small floats, groups of integers, or odd groups, which are not of a multiple of 16 inputs."""
    if not isinstance(scheme, Grouping):
        return "floats" if scheme is None else "small floats"
    return "odd groups" if scheme.group and scheme.group % min(BLOCKS) else "groups"


def shaping(folder: Path) -> dict[str, Any]:
    """The keys of config.json that say which architecture it is."""
    return _read(folder, "config.json")


def traits(folder: Path, files: Mapping[str, int], part: str = "") -> dict[str, Any]:
    """Facts by name, of the small files in `folder` and of all `files`, name -> bytes; of a `part`, where there are several.

    Raises CheckpointError for a file that is no JSON, UnsupportedError for weights that are quantised in an unknown way.
    """
    config = _read(folder, "config.json")
    scheme = scheme_of(config)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    size = sum(files[name] for name in weights_of(files))
    otherwise, action = instead(files, "model.safetensors")
    inner = config | (config.get(f"{part}_config") or {})
    return {
        "kind": _kind(config, files),
        "model_type": config.get("model_type"),
        "class": architecture.class_name(config) or config.get("model_type"),
        "head": not str(architecture.class_name(config)).endswith("Model"),
        "stored": _stored(scheme),
        "stored_as": (config.get("quantization_config") or {}).get("quant_method", dtype),
        "stored_bits": scheme.bits if isinstance(scheme, Grouping) else None,
        "dtype": dtype,
        "mixture": _mixture(config),
        "width": _first(inner, EMBEDDED),
        "vocab": _first(inner, ("vocab_size",)),
        "block": block(inner),
        "positions": _first(inner, POSITIONS),
        "billions": size / BYTES.get(dtype, 2) / 1e9 if scheme is None else None,
        "weights": size > 0,
        "otherwise": otherwise,  # where there are none: what it is, and what to do
        "action": action,
        "tokenizer": {"tokenizer.json", "tokenizer_config.json"} <= {*files},
        **_pooling(folder),
    }
