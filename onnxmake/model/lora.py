"""Low-rank adapters around the linear layers of a checkpoint's model, by PEFT: LoRA, DoRA, and LoRA over weights of 4 bits."""

import fnmatch
import json
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from onnxmake.errors import TargetError, UnsupportedError
from onnxmake.model.nearest import nearest
from onnxmake.model.prequantized import TUNED, read_logical
from onnxmake.model.reader import Reader
from onnxmake.model.safetensors import read_header
from onnxmake.model.schemes import scheme_of
from onnxmake.model.tuned import Factors, weight_of, whole

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(checkpoint: Path, o: Any) -> torch.nn.Module:
    """The checkpoint's model, with what earlier passes have tuned. Raises UnsupportedError."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    if scheme_of(config) is not None:
        raise UnsupportedError(
            "The checkpoint is stored quantised.",
            "finetune trains on weights as they were before.",
            "Name the model's unquantised checkpoint, or bring an adapter along with import_adapter.",
        )
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or ()):
        raise UnsupportedError(
            f"{', '.join(config.get('architectures') or ['The model'])} continues no text.",
            "finetune trains what config.json calls a causal language model.",
            "Choose another checkpoint.",
        )
    how: dict[str, Any] = {"dtype": DTYPES[o.dtype], "attn_implementation": "eager"}
    if o.method == "qlora":
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPES[o.dtype]
        )
    model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True, **how)
    model.config.use_cache = False
    if (checkpoint / TUNED).exists():
        _take_over(model, checkpoint / TUNED, o.method)
    return model


def _take_over(model: torch.nn.Module, tuned: Path, method: str) -> None:
    """Let the model have the weights of an earlier pass."""
    if method == "qlora":
        raise UnsupportedError(
            "qlora rounds the checkpoint's weights, and an earlier pass has tuned some of them.",
            "Two finetune passes follow one another.",
            'Write method = "lora" under the second one.',
        )
    tensors = read_header(tuned)
    with ThreadPoolExecutor(1) as ahead, torch.no_grad():
        reader = Reader(tensors, ahead)
        for name in tensors:
            model.get_parameter(name).copy_(torch.from_numpy(whole(reader, name)))


def modules_of(model: torch.nn.Module, checkpoint: Path, patterns: Sequence[str]) -> list[str]:
    """The linear modules that these globs mean, or all of them; a head that is tied to the embeddings is none.

    Raises TargetError for a glob that means none, UnsupportedError where the model has none that the checkpoint holds by its name.
    """
    tensors = read_logical(checkpoint)
    found = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and weight_of(name) in tensors]
    if not found:
        raise UnsupportedError(
            "The model has no linear layer that its checkpoint holds under the layer's own name.",
            "Its projections are fused, or renamed as they are loaded.",
            "Tune it elsewhere, and bring the checkpoint along as the target's source.",
        )
    head = model.get_output_embeddings()
    if not patterns:
        return [name for name in found if model.get_submodule(name) is not head]
    return sorted({name for pattern in patterns for name in _matching(pattern, found)})


def _matching(pattern: str, names: Collection[str]) -> list[str]:
    if matched := fnmatch.filter(names, pattern):
        return matched
    raise TargetError(
        f"target_modules: {pattern!r} names no linear layer.",
        "Modules are named as the checkpoint names them.",
        nearest(pattern, names),
    )


def adapted(model: torch.nn.Module, modules: Sequence[str], o: Any) -> PeftModel:
    """The model with adapters that change nothing yet, which alone are trained."""
    torch.manual_seed(o.seed)
    config = LoraConfig(
        r=o.rank,
        lora_alpha=o.alpha,
        lora_dropout=o.dropout,
        target_modules=list(modules),
        use_dora=o.method == "dora",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def factors(model: PeftModel) -> dict[str, Factors]:
    """What the adapters have learned, by module."""
    layers = {n: m for n, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    return {name: _factors(layer) for name, layer in sorted(layers.items())}


def _factors(layer: LoraLayer) -> Factors:
    name = "default"
    down, up = (part[name].weight.detach() for part in (layer.lora_A, layer.lora_B))
    magnitude = layer.lora_magnitude_vector[name].weight.detach() if name in layer.lora_magnitude_vector else None
    return Factors(_array(down), _array(up * layer.scaling[name]), None if magnitude is None else _array(magnitude))


def _array(values: torch.Tensor) -> np.ndarray:
    return values.to(torch.float32).numpy()
