"""Run a script of yours for its data: what a model is calibrated with, or trained on. Comes first, and only where scripts are allowed.

Invariant: the checkpoint stays as it is. A pass behind it names the file that this one writes as `script://FILE`. The script is read as
Olive reads a user_script, without network, among the files beside it that it or the target names; all of them are in the key.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmake.errors import TargetError
from onnxmake.model import row_files

ENVIRONMENT = "script"
TUNES = True  # what it makes lies among the checkpoint's files
MEMORY_MB = 4000
READS = ("checkpoint/*",)


@dataclass(frozen=True)
class Options:
    script: str  # a Python file beside the target
    output: str  # FILE.npz: arrays [samples, ...] by the names of inputs; FILE.txt: a text; FILE.jsonl: rows
    load_dataset: dict[str, Any] = field(
        default_factory=dict
    )  # "type": the function in the script; the rest: its arguments
    pre_process: dict[str, Any] = field(default_factory=dict)  # likewise, called with what load_dataset gives
    dataloader: dict[str, Any] = field(default_factory=dict)  # likewise; makes batches
    model: str = ""  # the name by which the script loads the checkpoint: "OWNER/NAME"
    samples: int = 0  # at most; 0: all
    columns: tuple[str, ...] = ()  # of rows of texts, those that count; (): all
    tokens: int = 256  # of each sample, where texts become arrays
    padded: bool = True  # each text is one sample, filled up; false: one after the other, cut into samples

    def __post_init__(self):
        stem, _, end = self.output.rpartition(".")
        if not stem or end not in ("npz", "txt", "jsonl") or "/" in self.output or "\\" in self.output:
            raise ValueError(f"output = {self.output!r} is not the name of a .npz, .txt or .jsonl file")
        if not self.script.endswith(".py"):
            raise ValueError(f"script = {self.script!r} is no Python file")
        if self.tokens < 1 or self.samples < 0:
            raise ValueError("tokens must be at least 1, and samples no less than 0")


def run(src: Path, out: Path, o: Options) -> None:
    if (src / "checkpoint" / o.output).exists():
        raise TargetError(
            f"output = {o.output!r} is a file of the checkpoint.", "It would stand in its place.", "Name another."
        )
    count = row_files.save(o, src / o.script, src / "checkpoint", out / o.output)
    print(f"{o.output}: {count} samples")
