"""Measure session options on this machine, and record the fastest beside the model. Comes last, behind package_onnx or package_genai.

They go into genai_config.json's session_options, or session_options.json, which names them alike and `doit bench` heeds. Invariant: the
model is the same file. What is found depends on the machine, which is in the step's key, and on what else runs there: `doit verify`
calls another answer measured, not different. The runtime's own options stay where nothing is faster by `gain`. For CPUs.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxmake.model.lowering import Device
from onnxmake.model.tuning import record, tried, tune

ENVIRONMENT = "cpu"
STAGE = "model"
MACHINE = True
MEMORY_MB = 4000


@dataclass(frozen=True)
class Options:
    device: Device
    threads: tuple[int, ...] = ()  # within an operator; 0: the runtime's choice; (): one, half of the cores, all
    spinning: tuple[bool, ...] = (True, False)  # of threads that wait for work
    arena: tuple[bool, ...] = (True,)  # memory kept from one run to the next
    prepacking: tuple[bool, ...] = (True,)  # weights laid out anew for kernels
    level: tuple[Literal["disabled", "basic", "extended", "all"], ...] = ("all",)  # of the runtime's rewriting
    execution: tuple[Literal["sequential", "parallel"], ...] = ("sequential",)  # of operators; GenAI has the first only
    inter_threads: tuple[int, ...] = (0,)  # that operators share if parallel
    prompt_tokens: int = 64  # of the text that is run
    new_tokens: int = 32  # that follow, of a model that generates text
    rounds: int = 5  # over all combinations; the median counts
    gain: float = 0.03  # by which the time must be less than with the runtime's own options

    def __post_init__(self):
        if self.device != "cpu":
            raise ValueError(f"device is {self.device}, and sessions are measured on the CPU")
        if (
            min(self.prompt_tokens, self.new_tokens, self.rounds) < 1
            or min((0, *self.threads, *self.inter_threads)) < 0
        ):
            raise ValueError("prompt_tokens, new_tokens and rounds must be at least 1, and threads no less than 0")
        if not 0 <= self.gain < 1:
            raise ValueError("gain must be at least 0 and less than 1")


def run(src: Path, out: Path, o: Options) -> Iterable[str]:
    found = tune(src, tried(vars(o)), o.prompt_tokens, o.new_tokens, o.rounds, o.gain)
    name, document = record(src, found)
    (out / name).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return {path.name for path in src.iterdir() if path.is_file()} - {name}
