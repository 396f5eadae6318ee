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
    file, _ = place.text(typed(value, str), end=".jsonl")
    if file is None:
        raise Refusal(
            "it is trained on files beside the workflow",
            "Save the data set as .jsonl or .txt and name it in data_files.",
        )
    return {"finetune.data": file}


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
