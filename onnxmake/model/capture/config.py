"""config.json as Transformers' own configuration object."""

from collections.abc import Mapping
from typing import Any

import transformers

from onnxmake.errors import UnsupportedError

FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def _floats(value: Any) -> Any:
    """Transformers writes floats that JSON has no word for as {"__float__": "Infinity"}."""
    if isinstance(value, Mapping):
        return FLOATS[value["__float__"]] if set(value) == {"__float__"} else {k: _floats(v) for k, v in value.items()}
    return [_floats(v) for v in value] if isinstance(value, list) else value


def load_config(architecture: Mapping) -> transformers.PreTrainedConfig:
    """The Transformers config of an architecture, refused where it names none or asks for code from the checkpoint."""
    kind = architecture.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(
            f"config.json has model_type {kind!r}; Transformers {transformers.__version__} knows no such model.",
            "The model is newer than the torch environment, or runs its own remote code.",
            "Raise transformers in containers/torch/requirements.in and lock again; remote code is never run.",
        )
    config = transformers.CONFIG_MAPPING[kind].from_dict(_floats(architecture))
    if config.get_text_config() is not config:
        raise UnsupportedError(
            f"model_type {kind!r} is of a model that reads or writes more than text.",
            "Only the text model can be exported, and the checkpoint holds the others, too.",
            "Choose a text-only checkpoint of the family, if there is one.",
        )
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedError(
            f"Transformers {transformers.__version__} has no causal language model for model_type {kind!r}.",
            "The checkpoint is an encoder, a vision or a speech model.",
            "Choose a checkpoint of a text-generating model.",
        )
    return config
