"""Let the model have its adapters beside it, each chosen at run time. Comes behind optimize and the quantiser, before packaging.

Invariant: without an adapter the model computes what it did. Weights stay as they are, quantised or not; an adapter's branch is computed
in the type of the activations. Adapters are what finetune and import_adapter have made under a name.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model import canonical, tuned
from onnxmake.model.adapters import SUFFIX, attach, write
from onnxmake.model.stored import FILE

ENVIRONMENT = "cpu"
READS = ("model.onnx", "quantized.safetensors?", "checkpoint/tensors.json", "checkpoint/*.lora")


@dataclass(frozen=True)
class Options:
    """None."""


def run(src: Path, out: Path, o: Options) -> Iterable[str]:
    model = ir.load(src / "model.onnx")
    files = sorted((src / "checkpoint").glob(f"*{tuned.SUFFIX}"))
    if not files:
        raise PassError(
            "There is no adapter to attach.",
            "No pass before has made one.",
            'Write adapter = "NAME" under finetune or import_adapter.',
        )
    adapters = {
        file.stem: {tuned.weight_of(module): factors for module, factors in tuned.adapter(file).items()}
        for file in files
    }
    shapes = json.loads((src / "checkpoint" / "tensors.json").read_text("utf-8"))
    branches = attach(model.graph, {name for factors in adapters.values() for name in factors}, shapes)
    for name, factors in adapters.items():
        write(out / f"{name}{SUFFIX}", [branch.of(factors) for branch in branches], branches[0].down.dtype)
    canonical.save(model, out / "model.onnx")
    return {path.name for path in src.iterdir() if path.name == FILE}
