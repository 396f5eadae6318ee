"""What Transformers computes: a twin as a checkpoint with random weights, and its outputs for given tokens.

Needs the torch environment.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from onnxmake.model.architecture import is_decoder
from onnxmake.model.capture.config import load_config, model_class
from onnxmake.model.capture.decoder import accepted
from onnxmake.model.capture.encoder import Encoder

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
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):  # all of a filter adds up, not its last axis only
            module.weight.mul_((module.weight.shape[-1] / module.weight[0].numel()) ** 0.5)


@torch.no_grad()
def make_checkpoint(
    config: Mapping[str, Any], folder: Path, dtype: torch.dtype = torch.float32, max_shard_size: str = "50GB"
) -> Path:
    """Save a twin with random weights as Transformers saves checkpoints. Returns `folder`."""
    torch.manual_seed(0)
    settings = load_config(config)
    model = model_class(config, settings)._from_config(settings, dtype=torch.float32)
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


def expected(folder: Path, part: str = "model", dtype: torch.dtype = torch.float32) -> dict[str, np.ndarray]:
    """What the checkpoint's class computes in `dtype`, as float32: of a text-generating model as `decoded`, else as `encoded`."""
    architecture = json.loads((folder / "config.json").read_text("utf-8"))
    kind = model_class(architecture, load_config(architecture))
    model = kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    return decoded(model) if is_decoder(architecture) else encoded(model, part)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


@torch.no_grad()
def encoded(model: transformers.PreTrainedModel, part: str) -> dict[str, np.ndarray]:
    """Inputs and outputs of two calls by the names N.in.NAME and N.out.NAME: alone, and a batch of two, of which the second
    ends with padding if it is text."""
    encoder, generator = Encoder(model, part), torch.Generator().manual_seed(7)
    longest = getattr(encoder.config, "max_position_embeddings", TOKENS)
    arrays: dict[str, np.ndarray] = {}
    for number, (batch, length) in enumerate([(1, min(TOKENS, longest)), (2, PADDED)]):
        given: dict[str, torch.Tensor] = {}
        for name in encoder.inputs:
            like = encoder.example(name)
            shape = (batch, *like.shape[1:-1], length)  # of text
            given[name] = torch.randn(batch, *like.shape[1:], generator=generator).to(model.dtype)
            if name in ("input_ids", "token_type_ids"):
                low, high = (3, encoder.config.vocab_size) if name == "input_ids" else (0, 2)
                given[name] = torch.randint(low, high, shape, generator=generator)
            elif name == "attention_mask":
                given[name] = torch.ones(shape, dtype=torch.int64)
                given[name][1:, ..., length - PADDING :] = 0
        if "attention_mask" in given:
            given["input_ids"][given["attention_mask"] == 0] = getattr(encoder.config, "pad_token_id", None) or 0
        made = {name: value for name, value in encoder.run(**given).items() if isinstance(value, torch.Tensor)}
        for side, values in (("in", given), ("out", made)):
            arrays |= {f"{number}.{side}.{name}": _numpy(value) for name, value in values.items()}
    return arrays


@torch.no_grad()
def decoded(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """The inputs, logits [1, TOKENS, V] of the prompt, batch_logits [2, PADDED, V], and the tokens that generation
    without sampling gives, greedy [PROMPT + GREEDY] of which the first `prompt` were given."""
    arrays = inputs(model.config.get_text_config().vocab_size)
    ids, batch, mask = (torch.from_numpy(arrays[name]) for name in ("ids", "batch_ids", "batch_mask"))
    arrays["logits"] = _numpy(model(ids, use_cache=False).logits)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    more = {"position_ids": positions} if "position_ids" in accepted(model) else {}
    arrays["batch_logits"] = _numpy(model(batch, attention_mask=mask, use_cache=False, **more).logits)
    return arrays | {"greedy": _greedy(model, ids[:, :PROMPT]), "prompt": np.array(PROMPT)}


def _greedy(model: transformers.PreTrainedModel, ids: torch.Tensor) -> np.ndarray:
    """The likeliest token, GREEDY times over; computed anew from the whole text each time, so that no cache has a say."""
    for _ in range(GREEDY):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[0].numpy()
