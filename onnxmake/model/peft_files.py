"""An adapter as PEFT saves it: adapter_model.safetensors and adapter_config.json."""

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.reader import Reader
from onnxmake.model.safetensors import read_header
from onnxmake.model.tuned import Factors, whole

PREFIX = "base_model.model."
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
PLAIN: dict[
    str, tuple
] = {  # settings that change what the factors mean, and the values under which they mean what is computed here
    "peft_type": ("LORA",),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
    "modules_to_save": ([], None),
    "layer_replication": ([], None),
    "trainable_token_indices": ([], {}, None),
    "target_parameters": ([], None),
    "alora_invocation_tokens": ([], None),
}


def _settings(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
        if not isinstance(found["r"], int) or not isinstance(found["lora_alpha"], (int, float)):
            raise ValueError("r and lora_alpha are no numbers")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file.name} is no adapter_config.json: {error!r}.",
            "The file is damaged, or another one.",
            "Name the file that PEFT's save_pretrained wrote.",
        ) from None
    for name, plain in PLAIN.items():
        if found.get(name, plain[-1]) not in plain and (name != "peft_type" or name in found):
            raise UnsupportedError(
                f"The adapter says {name} = {json.dumps(found[name])}.",
                "It is more than factors of linear layers' weights.",
                "Merge it with PEFT (merge_and_unload), and name the result as the target's source.",
            )
    return found


def factors(weights: Path, config: Path) -> dict[str, Factors]:
    """Module -> factors. Raises CheckpointError, and UnsupportedError for what is more than factors of linear layers."""
    settings, tensors = _settings(config), read_header(weights)
    names = {name.removeprefix(PREFIX).removesuffix(".weight"): name for name in tensors}
    kinds = {kind: kind.removesuffix(".weight") for kind in (DOWN, UP, MAGNITUDE)}
    modules = sorted(name.removesuffix(kinds[DOWN]) for name in names if name.endswith(kinds[DOWN]))
    known = {f"{module}{kind}" for module in modules for kind in kinds.values()}
    if strange := sorted(names[name] for name in names if name not in known):
        raise UnsupportedError(
            f"{weights.name} holds {strange[0]}.",
            "It is more than factors of linear layers' weights.",
            "Merge it with PEFT (merge_and_unload), and name the result as the target's source.",
        )
    if not modules:
        raise CheckpointError(f"{weights.name} holds no adapter.", "It is another file.", "Name PEFT's file.")
    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(tensors, ahead)
        return {module: _factors(reader, names, module, settings) for module in modules}


def _factors(reader: Reader, names: Mapping[str, str], module: str, settings: Mapping[str, Any]) -> Factors:
    found: list[np.ndarray | None] = []
    for kind in (DOWN, UP, MAGNITUDE):
        name = names.get(module + kind.removesuffix(".weight"))
        found.append(None if name is None else whole(reader, name))
    down, up, magnitude = found
    if down is None or up is None:
        raise CheckpointError(f"The adapter of {module} is not whole.", "The file was cut.", "Save the adapter again.")
    if settings.get("use_dora") and magnitude is None:
        raise CheckpointError(f"{module} has no magnitudes, though use_dora is set.", "", "Save the adapter again.")
    rank = len(down)
    scale = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Factors(down, up * np.float32(scale), magnitude)
