"""Bind the weights and lay out the folder that ONNX Runtime GenAI loads: model, configuration, tokenizer.

Invariant: the model's bytes hold everything it needs; no reference to the checkpoint is left.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from onnxmake.errors import CheckpointError, PassError
from onnxmake.model import genai
from onnxmake.model.adapters import carried
from onnxmake.model.assemble import assemble, copy_files
from onnxmake.model.head import last_token_only
from onnxmake.model.lowering import Device, provider_options
from onnxmake.model.progress import progress
from onnxmake.model.stored import FILE

ENVIRONMENT = "cpu"
STAGE = "package"
READS = (
    "model.onnx",
    "quantized.safetensors?",
    "*.onnx_adapter",
    "checkpoint/config.json",
    "checkpoint/generation_config.json?",
    "checkpoint/model.safetensors.index.json?",
    "checkpoint/*.safetensors",
    "checkpoint/tokenizer.json",
    "checkpoint/tokenizer_config.json",
    "checkpoint/special_tokens_map.json?",
    "checkpoint/added_tokens.json?",
    "checkpoint/vocab.json?",
    "checkpoint/merges.txt?",
    "checkpoint/chat_template.jinja?",
    "checkpoint/chat_template.json?",
)
CONSUMED = {"config.json", "generation_config.json", "model.safetensors.index.json"}  # all else is the tokenizer's


@dataclass(frozen=True)
class Options:
    device: Device
    logits: Literal["last", "all"] = "last"  # "all": of every token, for scoring texts; prompts take longer


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not JSON: {error}.", "The file is damaged.", "Fetch the file again."
        ) from error


def run(src: Path, out: Path, o: Options) -> Iterable[str]:
    checkpoint = src / "checkpoint"
    model = ir.load(src / "model.onnx")
    if not any(output.name.startswith("present.") for output in model.graph.outputs):
        raise PassError(
            "The model generates no text: it keeps nothing from one call to the next.",
            "It is an encoder.",
            "Use package_onnx in place of package_genai.",
        )
    adapters = carried(model.graph, src)
    genai.equal_widths(model.graph)
    if o.logits == "last":
        last_token_only(model.graph)
    assemble(model, o.device, checkpoint, out, progress, src / FILE)
    config = genai.genai_config(
        model.graph,
        _json(checkpoint / "config.json"),
        _json(checkpoint / "generation_config.json"),
        provider_options(o.device),
    )
    (out / "genai_config.json").write_text(json.dumps(config, indent=2) + "\n")
    copy_files(checkpoint, out, CONSUMED)
    return adapters
