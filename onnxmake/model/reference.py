"""What Transformers computes: a twin as a checkpoint with random weights, and its outputs for given tokens.

Needs the torch environment.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from onnxmake.model.capture.config import load_config

PROMPT, GREEDY = 24, 6  # tokens that generation starts with, and continues by
TOKENS, PADDED, PADDING = 88, 28, 6  # of the one prompt; of a batch of two, where the second begins with padding


def randomize(model: transformers.PreTrainedModel, seed: int = 0) -> None:
    """Random weights that matter, norms and biases included: none is one, zero or equal to another."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim < 2:
            near = tensor.detach().float().clamp(-4, 4)  # initial values say what is meant: 1 for a norm, 0 for a bias
            tensor.copy_(near + 0.2 * noise)
        else:
            tensor.copy_(noise * tensor.shape[-1] ** -0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()  # as some classes do themselves with what they load


@torch.no_grad()
def make_checkpoint(
    config: Mapping[str, Any], folder: Path, dtype: torch.dtype = torch.float32, max_shard_size: str = "50GB"
) -> Path:
    """Save a twin with random weights as Transformers saves checkpoints. Returns `folder`."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(load_config(config), dtype=torch.float32)
    randomize(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def inputs(vocabulary: int) -> dict[str, np.ndarray]:
    """ids [1, TOKENS], batch_ids and batch_mask [2, PADDED]."""
    generator = torch.Generator().manual_seed(7)
    ids, batch = (torch.randint(3, vocabulary, shape, generator=generator) for shape in ((1, TOKENS), (2, PADDED)))
    mask = torch.ones_like(batch)
    mask[1, :PADDING] = 0
    return {"ids": ids.numpy(), "batch_ids": batch.numpy(), "batch_mask": mask.numpy()}


@torch.no_grad()
def expected(folder: Path) -> dict[str, np.ndarray]:
    """The inputs, logits [1, TOKENS, V] of the prompt, batch_logits [2, PADDED, V], and the tokens [PROMPT + GREEDY] that
    generation without sampling gives."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    arrays = inputs(model.config.get_text_config().vocab_size)
    ids, batch, mask = (torch.from_numpy(arrays[name]) for name in ("ids", "batch_ids", "batch_mask"))
    arrays["logits"] = model(ids, use_cache=False).logits.numpy()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    more = {"position_ids": positions} if "position_ids" in inspect.signature(model.forward).parameters else {}
    arrays["batch_logits"] = model(batch, attention_mask=mask, use_cache=False, **more).logits.numpy()
    return arrays | {"greedy": _greedy(model, ids[:, :PROMPT])}


def _greedy(model: transformers.PreTrainedModel, ids: torch.Tensor) -> np.ndarray:
    """The likeliest token, GREEDY times over; computed anew from the whole text each time, so that no cache has a say."""
    for _ in range(GREEDY):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[0].numpy()
