"""Twins of architectures: checkpoints, what Transformers computes with them, and their captured graphs.

{"folder", "configs": name -> config.json or "names": all, ...} -> name -> {"result" | "refused" | "failed"}; each twin
in folder/<name>: model.safetensors, config.json, expected.npz, graph.onnx. Needs the torch environment.
"""

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from onnxmake.model import canonical, reference
from onnxmake.model.capture import capture
from onnxmake.model.isolated import isolated
from onnxmake.model.safetensors import read_checkpoint
from onnxmake.model.serve import serve
from onnxmake.model.twin import twin

SECONDS = 240.0  # for one architecture

# What makes the default configuration of a class one that checkpoints have.
SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3], "num_hidden_layers": 4},
    "deepseek_v2": {"topk_group": 2, "n_group": 4, "num_experts_per_tok": 2},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 4, "num_hidden_layers": 12},
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


def default_config(kind: str) -> dict[str, Any]:
    """config.json as a checkpoint of the architecture would have it."""
    return transformers.CONFIG_MAPPING[kind](**SETTINGS.get(kind, {})).to_dict() | {"model_type": kind}


def make_twin(config: Mapping[str, Any], folder: Path) -> None:
    """Write the twin's checkpoint and what Transformers computes with it."""
    reference.make_checkpoint(twin(config), folder)
    np.savez(folder / "expected.npz", **reference.expected(folder))


def _make(kind: str, config: Mapping[str, Any] | None, folder: Path) -> None:
    torch.set_num_threads(1)
    make_twin(default_config(kind) if config is None else config, folder)
    architecture = json.loads((folder / "config.json").read_text("utf-8"))
    shapes = {name: list(tensor.shape) for name, tensor in read_checkpoint(folder).items()}
    canonical.save(capture(architecture, shapes), folder / "graph.onnx")


def sweep(folder: str, kinds: list[str] | None = None, configs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make the twins of `configs`, or of default configurations of `kinds`, or of all causal LMs that there are."""
    chosen: dict[str, Any] = dict(configs or dict.fromkeys(kinds or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    outcomes = {}
    for name, config in chosen.items():
        place = Path(folder, name)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        call = functools.partial(_make, name, config, place)
        outcomes[name] = isolated(call, log=str(place / "make.log"), seconds=SECONDS)
        print(f"{len(outcomes):4} of {len(chosen)} made: {name}", flush=True)
    return outcomes


if __name__ == "__main__":
    serve(lambda action: sweep(**action))
