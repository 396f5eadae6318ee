"""Rules for LoRA and its kin: what `finetune` takes of them."""

from typing import Any

from onnxmake.olive.rules import Place, Settings, typed
from onnxmake.olive.told import Refusal

ARGUMENTS = {  # of Transformers' trainer
    "per_device_train_batch_size": ("batch_size", int),
    "gradient_accumulation_steps": ("accumulate", int),
    "max_steps": ("max_steps", int),
    "learning_rate": ("learning_rate", float),
    "lr_scheduler_type": ("schedule", str),
    "warmup_steps": ("warmup_steps", int),
    "weight_decay": ("weight_decay", float),
    "seed": ("seed", int),
    "save_steps": ("save_steps", int),
}


def training_text(value: Any, place: Place) -> Settings:
    file, taken = place.text(typed(value, str), end=".jsonl")
    if file is None:
        raise Refusal(
            "it names nothing to be trained on",
            "Name a data set in data_name, or a .jsonl or .txt file beside the workflow in data_files.",
        )
    if taken.pop("samples", None):
        place.note("max_samples is not heeded: max_steps and batch_size say how much is read")
    return {"finetune.data": file} | {f"finetune.{option}": value for option, value in taken.items()}


def modules(value: Any, place: Place) -> Settings:
    return {"finetune.target_modules": [f"*.{name}" for name in typed(value, list)]} if value else {}


def training(value: Any, place: Place) -> Settings:
    out: Settings = {}
    given = typed(value, dict)
    for name, one in (given | (given.get("extra_args") or {})).items():
        if name in ARGUMENTS:
            option, kind = ARGUMENTS[name]
            out[f"finetune.{option}"] = typed(one, kind)
        elif name != "extra_args":
            place.note(f"training_args: {name} is not heeded")
    return out
