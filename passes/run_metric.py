"""Let a script of yours evaluate the built model, on the CPU. Not a step of a build: `[[metric]]` names it, and `doit check` makes it.

Invariant: figures.json holds what the script's function returned, one number by `name` or several by their own names. The function is
called as Olive calls an evaluate_func, without network, among the files beside the script that it or the target names.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmake.model import figures

ENVIRONMENT = "script"
MEMORY_MB = 4000
READS = ("*", "checkpoint/*")


@dataclass(frozen=True)
class Options:
    script: str  # a Python file beside the target
    evaluate: str  # its function: of model, device, execution_providers and arguments; a number, or a table of numbers
    name: str  # of the figure, where it is one number: letters, digits, _
    arguments: dict[str, Any] = field(default_factory=dict)
    model: str = ""  # the name by which the script loads the checkpoint's tokenizer: "OWNER/NAME"

    def __post_init__(self):
        if not self.script.endswith(".py"):
            raise ValueError(f"script = {self.script!r} is no Python file")
        if not (self.name.isidentifier() and self.name.isascii()):
            raise ValueError(f"name = {self.name!r} is not of letters, digits and _")


def run(src: Path, out: Path, o: Options) -> None:
    found = figures.evaluate(o, src / o.script, src / "checkpoint", src / "model.onnx")
    (out / "figures.json").write_text(json.dumps(found), "utf-8")
