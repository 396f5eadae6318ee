"""Take an adapter that PEFT has saved elsewhere for this checkpoint: LoRA or DoRA. Comes first.

Invariant: architecture and names stay. What follows reads the weights with the adapter merged in or, where `adapter` gives it a name, leaves
it to attach_adapters.
"""

from dataclasses import dataclass
from pathlib import Path

from onnxmake.model import peft_files, tuned

ENVIRONMENT = "cpu"
TUNES = True
MEMORY_MB = 2000
READS = ("checkpoint/config.json", "checkpoint/model.safetensors.index.json?", "checkpoint/*.safetensors")


@dataclass(frozen=True)
class Options:
    weights: str  # PEFT's adapter_model.safetensors, beside the target
    config: str  # and its adapter_config.json
    adapter: str = ""  # the name of an adapter that is chosen at run time; "": merged into the weights

    def __post_init__(self):
        if self.adapter and not self.adapter.replace("-", "").replace("_", "").isalnum():
            raise ValueError("adapter is a name of letters, digits, - and _")


def run(src: Path, out: Path, o: Options) -> None:
    tuned.save(src / "checkpoint", out, o.adapter, peft_files.factors(src / o.weights, src / o.config))
