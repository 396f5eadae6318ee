"""Rules for LoRA and its kin: what `finetune` takes of them."""

import math
from collections.abc import Mapping
from typing import Any

from onnxmake.olive.rules import KINDS, Place, Settings, WrongType, each, typed
from onnxmake.olive.told import Refusal

ARGUMENTS = {  # of Transformers' trainer -> option, type, and the least
    "per_device_train_batch_size": ("batch_size", int, 1),
    "gradient_accumulation_steps": ("accumulate", int, 1),
    "learning_rate": ("learning_rate", float, 1e-9),
    "weight_decay": ("weight_decay", float, 0),
    "seed": ("seed", int, 0),
    "save_steps": ("save_steps", int, 1),
}
SCHEDULES = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine"}
TIMED = (
    "max_steps",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "warmup_ratio",
)  # read together, in steps
RATIO = 0.03  # Olive's warmup_ratio
STEPS = 200  # finetune's


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


def dtype(value: Any, place: Place) -> Settings:
    if value == "float16":
        place.note("torch_dtype: float16 needs its loss scaled, and adapters are tuned in bfloat16 instead")
    return each({"float32": {"finetune.dtype": "fp32"}, "bfloat16": {}, "float16": {}})(value, place)


def _arguments(value: Any) -> dict[str, Any]:
    """Those that are given, of both blocks. Raises WrongType."""
    given = typed(value, dict)
    return {k: v for k, v in (given | typed(given.get("extra_args") or {}, dict)).items() if v is not None}


def _number(name: str, value: Any, kind: type, least: float) -> Any:
    if type(value) not in (int, kind) or value < least:
        raise WrongType(f"an object whose {name} is {KINDS[kind]}, {least:g} or more")
    return value


def training(value: Any, place: Place) -> Settings:
    out: Settings = {}
    for name, one in _arguments(value).items():
        if name in ARGUMENTS:
            option, kind, least = ARGUMENTS[name]
            out[f"finetune.{option}"] = _number(name, one, kind, least)
        elif name not in ("extra_args", *TIMED):
            place.note(f"training_args: {name} is not heeded")
    return out


def steps(options: Mapping[str, Any], place: Place) -> Settings:
    """How many steps, and how the learning rate goes over them; Transformers trains epochs where max_steps is none above 0."""
    if "train_data_config" not in options:
        raise WrongType("a pass with train_data_config")
    given = _arguments(options.get("training_args") or {})
    most = int(_number("max_steps", given.get("max_steps", -1), int, -1))
    if most < 1:
        epochs = given.get("num_train_epochs", 3)
        place.note(f"Olive trains {epochs} epochs; here it is {STEPS} steps, since max_steps says no other number")
    name = str(given.get("lr_scheduler_type", "constant"))
    if name not in SCHEDULES:
        raise Refusal(f"training_args: there is no schedule {name}", f"Write {' or '.join(SCHEDULES)}.")
    total, warmup = most if most > 0 else STEPS, 0
    if name != "constant":
        ratio = _number("warmup_ratio", given.get("warmup_ratio", RATIO), float, 0)
        warmup = _number("warmup_steps", given.get("warmup_steps", 0), int, 0) or math.ceil(total * ratio)
    if warmup > total:
        raise Refusal(
            f"training_args: of {total} steps {warmup} would warm up", "Write fewer warmup_steps, or more max_steps."
        )
    return {"finetune.max_steps": total, "finetune.schedule": SCHEDULES[name], "finetune.warmup_steps": warmup}
