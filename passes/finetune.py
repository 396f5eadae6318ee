"""Tune low-rank adapters of the checkpoint's linear layers on a text: LoRA, DoRA, QLoRA. Comes first.

Invariant: architecture and names stay, so the graph of export does. What follows reads the weights with the adapters merged in or, where
`adapter` gives this one a name, leaves it to attach_adapters. Equal on machines whose float32 products are equal; elsewhere as good,
and not the same bytes. A run that was stopped goes on from its last `save_steps`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxmake.model import examples, lora, tuned
from onnxmake.model.training import train

ENVIRONMENT = "finetune"
TUNES = True
RESUMES = True
UNIT = "steps"
MEMORY_MB = 4000
TIMEOUT_S = 48 * 3600
SPREAD = 16  # times what the steps read: of more data, the beginning
READS = (
    "checkpoint/config.json",
    "checkpoint/generation_config.json?",
    "checkpoint/model.safetensors.index.json?",
    "checkpoint/*.safetensors",
    "checkpoint/tokenizer.json",
)


@dataclass(frozen=True)
class Options:
    data: str  # a text or rows (.jsonl, .json, .csv) beside the target, or hf://datasets/OWNER/NAME@COMMIT/FILE
    text_template: str = ""  # of rows: "{instruction}\n{response}"; "": the column text
    adapter: str = ""  # the name of an adapter that is chosen at run time; "": merged into the weights
    method: Literal["lora", "dora", "qlora"] = "lora"
    target_modules: tuple[str, ...] = ()  # globs of linear layers as the checkpoint names them; (): all but the head
    rank: int = 16
    alpha: float = 32.0  # the adapter's product counts alpha / rank times
    dropout: float = 0.0  # of what the adapters read
    max_steps: int = 200
    batch_size: int = 4  # windows at once
    accumulate: int = 1  # batches whose gradients make one step
    tokens: int = 256  # of each window
    learning_rate: float = 2e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 5
    weight_decay: float = 0.0
    seed: int = 0
    save_steps: int = 50  # between two states that can be gone on from
    dtype: Literal["fp32", "bf16"] = "fp32"  # that the model is computed in; adapters are float32

    def __post_init__(self):
        counts = ("rank", "max_steps", "batch_size", "accumulate", "save_steps")
        if low := [name for name in counts if getattr(self, name) < 1]:
            raise ValueError(f"{low[0]} must be at least 1")
        if self.tokens < 2:
            raise ValueError("tokens must be at least 2: one is read, one foretold")
        if not 0 <= self.warmup_steps <= self.max_steps or self.seed < 0:
            raise ValueError("warmup_steps must be from 0 to max_steps, and seed no less than 0")
        if not 0 <= self.dropout < 1 or min(self.learning_rate, self.alpha) <= 0 or self.weight_decay < 0:
            raise ValueError(
                "learning_rate and alpha must be above 0, weight_decay no less than 0, dropout from 0 to below 1"
            )
        if self.adapter and (not self.adapter.replace("-", "").replace("_", "").isalnum() or self.method == "dora"):
            raise ValueError(
                "adapter is a name of letters, digits, - and _, and not of DoRA, whose changes are no sum that a graph could add"
            )


def run(src: Path, out: Path, o: Options) -> None:
    checkpoint = src / "checkpoint"
    most = SPREAD * o.max_steps * o.batch_size * o.accumulate
    rows = examples.windows(checkpoint, src / o.data, o.text_template, o.tokens, most)
    model = lora.load(checkpoint, o)
    model = lora.adapted(model, lora.modules_of(model, checkpoint, o.target_modules), o)
    train(model, rows, o, src.parent / "state")
    tuned.save(checkpoint, out, o.adapter, lora.factors(model))
