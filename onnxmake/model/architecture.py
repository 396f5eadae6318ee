"""What config.json says a checkpoint is: a decoder, which generates text, or an encoder. Standard library only: the host asks, too."""

import re
from collections.abc import Mapping
from typing import Any

GENERATES = re.compile(
    r"CausalLM|LMHead|BertGenerationDecoder"
)  # in the names of Transformers' causal language models only
ANSWERS = "ConditionalGeneration"  # to text, pictures or sound, without an encoder's output for it


def class_name(architecture: Mapping[str, Any]) -> str | None:
    """The Transformers class that the checkpoint was saved from, where config.json says it."""
    names = architecture.get("architectures") or [None]
    return names[0] if isinstance(names, list) and isinstance(names[0], str) else None


def is_decoder(architecture: Mapping[str, Any]) -> bool:
    """Whether it generates text token by token; a config without a class name is taken for one that does."""
    name = class_name(architecture)
    answers = ANSWERS in (name or "") and not architecture.get("is_encoder_decoder")
    return name is None or answers or bool(GENERATES.search(name))


def row(architecture: Mapping[str, Any], part: str) -> str | None:
    """How docs/support.md names it: the model type, of an encoder with the part that is exported."""
    kind = architecture.get("model_type")
    return kind if is_decoder(architecture) else f"{kind}.{'encoder' if part in ('model', 'base') else part}"
