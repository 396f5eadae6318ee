"""config.json as Transformers' own configuration object, and the class that it configures."""

from collections.abc import Mapping
from typing import Any

import transformers

from onnxmake.errors import UnsupportedError
from onnxmake.model.architecture import class_name, is_decoder

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
    return transformers.CONFIG_MAPPING[kind].from_dict(_floats(architecture))


def model_class(architecture: Mapping, config: transformers.PreTrainedConfig) -> type[transformers.PreTrainedModel]:
    """The class that a checkpoint of this config.json is loaded into. Raises UnsupportedError."""
    return _decoder_class(config) if is_decoder(architecture) else _named_class(class_name(architecture))


def _named_class(name: str) -> type[transformers.PreTrainedModel]:
    found = getattr(transformers, name, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    raise UnsupportedError(
        f"config.json has the architecture {name!r}; Transformers {transformers.__version__} has no such class.",
        "The model is newer than the torch environment, or runs its own remote code.",
        "Raise transformers in containers/torch/requirements.in and lock again; remote code is never run.",
    )


def _decoder_class(config: transformers.PreTrainedConfig) -> type[transformers.PreTrainedModel]:
    kind = config.model_type
    if config.get_text_config() is not config:
        raise UnsupportedError(
            f"model_type {kind!r} is of a model that reads or writes more than text.",
            "Only the text model can be exported, and the checkpoint holds the others, too.",
            "Choose a text-only checkpoint of the family, if there is one.",
        )
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedError(
            f"Transformers {transformers.__version__} has no causal language model for model_type {kind!r}.",
            "The checkpoint is an encoder, a vision or a speech model, and config.json does not say so in architectures.",
            "Write the class that it was saved from into architectures of config.json.",
        )
    return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
