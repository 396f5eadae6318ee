"""Attention through Transformers' registries: one semantic op per layer that owns mask, past and present."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from onnxmake.errors import UnsupportedError
from onnxmake.model.capture import masks
from onnxmake.model.capture.states import Context

NAME = "onnxmake"
_context: Context  # registered functions are called by modelling code, which passes nothing of ours


def begin(context: Context) -> None:
    """What is called from now on belongs to `context`."""
    global _context
    _context = context


def context() -> Context:
    """What modelling code is called for now."""
    return _context


def mask(*args: Any, mask_function: Callable, **kwargs: Any) -> Tensor:
    """The mask as eager attention adds it, float [batch, 1, sequence, total]; known again by identity."""
    kwargs["allow_is_bidirectional_skip"] = False  # none would be made where the example has no padding
    tensor = eager_mask(*args, mask_function=mask_function, **kwargs)
    _context.masks.append(tensor)
    if len(_context.visibilities) < len(_context.masks):
        _context.visibilities.append(None if _context.past else masks.probe(mask_function))
    return tensor


def _sparse(mask: Tensor, indices: Tensor, keys: int) -> Tensor:
    """The mask [B,1,S,T] where each query sees only the keys [B,S,N] that an indexer chose for it."""
    batch, seq, _ = indices.shape
    left_out = torch.ones(batch, seq, keys, dtype=torch.bool).scatter(-1, indices.long(), False).unsqueeze(1)
    return mask.masked_fill(left_out, torch.finfo(mask.dtype).min)


def attention(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    indices: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """q [B,H,S,D], k and v [B,KV,S,D] -> [B,S,H,Dv], as Transformers' attention functions.

    Emits onnxmake::Attention when traced. Raises UnsupportedError where a layer with a past looks ahead.
    """
    batch, heads, seq, dim = q.shape
    if indices is not None:
        attention_mask = _sparse(attention_mask, indices, k.shape[2])
    if not torch.compiler.is_exporting():
        return torch.zeros(batch, seq, heads, v.shape[3]), None
    attributes: dict[str, int | float] = {"scale": float(dim**-0.5 if scaling is None else scaling), "causal": 0}
    if softcap:
        attributes["softcap"] = float(softcap)
    seen, keys, values = _context.visibility(attention_mask), _context.update_of(k), _context.update_of(v)
    if seen is not None:
        attributes |= {"causal": int(seen.causal), **({"window": seen.window} if seen.window else {})}
    if keys is not None and values is not None:  # no one touched what the cache handed out
        if attention_mask is None or seen is not None and not seen.causal:
            raise UnsupportedError(
                f"{type(module).__name__} looks at tokens that come later.",
                "The checkpoint is an encoder: its config.json does not say is_decoder.",
                "Choose a checkpoint of a text-generating model.",
            )
        operands, shapes = [keys.new, values.new, keys.past, values.past], [k.shape, v.shape]
    else:
        operands, shapes = [k, v, None, None], []
    operands += [None if seen is None else _context.mask, s_aux, attention_mask if seen is None else None]
    out, *present = torch.onnx.ops.symbolic_multi_out(
        "onnxmake::Attention",
        [q, *operands],
        attributes,
        dtypes=[q.dtype] * (1 + len(shapes)),
        version=1,
        shapes=[[batch, seq, heads, v.shape[3]], *shapes],
    )
    for state, tensor in _context.present.items():
        for update, own in zip((keys, values), present):
            if tensor is update.all:
                _context.present[state] = own
    return out, None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
