"""Twins of architectures: checkpoints, what Transformers computes with them, and their captured graphs.

{"folder", "configs": name -> config.json, "part", "dtypes", or "kinds": rows of the support table, all if empty} -> name ->
{"result" | "refused" | "failed"}; each twin in folder/<name>: model.safetensors, config.json, expected.npz, of each of
"dtypes" fp16.npz or bf16.npz, graph.onnx. Needs the torch environment.
"""

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from onnxmake.model import canonical, reference
from onnxmake.model.capture import capture
from onnxmake.model.isolated import isolated
from onnxmake.model.letters import write_tokenizer
from onnxmake.model.safetensors import read_checkpoint
from onnxmake.model.serve import serve
from onnxmake.model.twin import twin

SECONDS = 240.0  # for one architecture
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}

# What makes the default configuration of a class one that checkpoints have.
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("deberta.encoder", "deberta-v2.encoder"), {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    ),
    "beit.encoder": {"use_relative_position_bias": True},
    "bamba": {"attn_layer_indices": [1, 3], "num_hidden_layers": 4},
    "deepseek_v2": {"topk_group": 2, "n_group": 4, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4},
    **dict.fromkeys(
        ("lfm2", "lfm2_moe"),
        {"layer_types": ["conv", "conv", "full_attention"] * 4, "num_hidden_layers": 12},
    ),
    "nemotron": {"num_key_value_heads": 8},
    **{
        name: {"is_decoder": True}
        for name in [
            "bert",
            "bert-generation",
            "big_bird",
            "camembert",
            "data2vec-text",
            "electra",
            "ernie",
            "megatron-bert",
            "rembert",
            "reformer",
            "roberta",
            "roberta-prelayernorm",
            "roc_bert",
            "roformer",
            "xlm-roberta",
            "xlm-roberta-xl",
            "xmod",
        ]
    },
}


# Models without a past: their row in docs/support.md -> the class that checkpoints are saved from, and what is exported of it.
ENCODERS = {
    "albert.encoder": ("AlbertModel", "model"),
    "beit.encoder": ("BeitForImageClassification", "model"),
    "bert.encoder": ("BertModel", "model"),
    "camembert.encoder": ("CamembertModel", "model"),
    "clip.text": ("CLIPModel", "text"),
    "clip.vision": ("CLIPModel", "vision"),
    "convnext.encoder": ("ConvNextForImageClassification", "model"),
    "deberta.encoder": ("DebertaForSequenceClassification", "model"),
    "deberta-v2.encoder": ("DebertaV2ForSequenceClassification", "model"),
    "deit.encoder": ("DeiTForImageClassification", "model"),
    "dinov2.encoder": ("Dinov2Model", "model"),
    "distilbert.encoder": ("DistilBertForSequenceClassification", "model"),
    "electra.encoder": ("ElectraForTokenClassification", "model"),
    "ernie.encoder": ("ErnieModel", "model"),
    "modernbert.encoder": ("ModernBertModel", "model"),
    "mpnet.encoder": ("MPNetModel", "model"),
    "resnet.encoder": ("ResNetForImageClassification", "model"),
    "roberta.encoder": ("RobertaForQuestionAnswering", "model"),
    "siglip.text": ("SiglipModel", "text"),
    "siglip.vision": ("SiglipModel", "vision"),
    "swin.encoder": ("SwinForImageClassification", "model"),
    "vit.encoder": ("ViTForImageClassification", "model"),
    "whisper.encoder": ("WhisperForConditionalGeneration", "encoder"),
    "xlm-roberta.encoder": ("XLMRobertaModel", "model"),
}


def class_and_part(row: str) -> tuple[str, str]:
    """The class of a row whose model generates no text, and what is exported of it; of a row not in ENCODERS, the bare model."""
    kind, _, part = row.partition(".")
    if row in ENCODERS:
        return ENCODERS[row]
    return transformers.MODEL_MAPPING[transformers.CONFIG_MAPPING[kind]].__name__, part.replace("encoder", "model")


def default_config(row: str, **settings: Any) -> dict[str, Any]:
    """config.json as a checkpoint of the row's architecture would have it, but for `settings`."""
    if "." not in row:
        return transformers.CONFIG_MAPPING[row](**SETTINGS.get(row, {}) | settings).to_dict() | {"model_type": row}
    name, _ = class_and_part(row)
    config = getattr(transformers, name).config_class(**SETTINGS.get(row, {}) | settings)
    return config.to_dict() | {"model_type": config.model_type, "architectures": [name]}


def make(config: Mapping[str, Any], folder: Path, part: str = "model", dtypes: Sequence[str] = ()) -> None:
    """Write the checkpoint of a twin's config, what Transformers computes with it (also in `dtypes`), and its captured graph."""
    reference.make_checkpoint(config, folder)
    for name, dtype in {"expected": torch.float32, **{name: HALVES[name] for name in dtypes}}.items():
        arrays: Any = reference.expected(folder, part, dtype)
        np.savez(folder / f"{name}.npz", **arrays)
    architecture = json.loads((folder / "config.json").read_text("utf-8"))
    if vocabulary := architecture.get("vocab_size"):
        write_tokenizer(folder, vocabulary)
    shapes = {name: list(tensor.shape) for name, tensor in read_checkpoint(folder).items()}
    canonical.save(capture(architecture, shapes, part), folder / "graph.onnx")


def _make(row: str, config: Mapping[str, Any] | None, part: str | None, dtypes: Sequence[str], folder: Path) -> None:
    torch.set_num_threads(1)
    part = part or (class_and_part(row)[1] if "." in row else "model")
    make(twin(default_config(row) if config is None else config), folder, part, dtypes)


def sweep(
    folder: str,
    kinds: list[str] | None = None,
    configs: Mapping[str, Any] | None = None,
    part: str | None = None,
    dtypes: Sequence[str] = (),
) -> dict[str, Any]:
    """Make the twins of `part` of `configs`, or of default configurations of `kinds`, or of all that there are."""
    chosen: dict[str, Any] = dict(configs or dict.fromkeys(kinds or [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *ENCODERS]))
    outcomes = {}
    for name, config in chosen.items():
        place = Path(folder, name)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        call = functools.partial(_make, name, config, part, dtypes, place)
        outcomes[name] = isolated(call, log=str(place / "make.log"), seconds=SECONDS)
        print(f"{len(outcomes):4} of {len(chosen)} made: {name}", flush=True)
    return outcomes


if __name__ == "__main__":
    serve(lambda action: sweep(**action))
