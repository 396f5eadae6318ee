"""Attention through Transformers' registries: one semantic op per layer that owns mask, past and present."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

NAME = "onnxmake"


@dataclass
class Context:
    """What one call shares between its layers.

    The past by layer index (None: only note the shapes), the 2-D mask, and the presents.
    """

    past: dict[int, tuple[Tensor, Tensor]] | None = None
    mask: Tensor | None = None
    present: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


context = Context()


def attention(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_,
) -> tuple[Tensor, None]:
    """q [B,H,S,D], k and v [B,KV,S,D] -> [B,S,H,Dv], as Transformers' attention functions.

    Emits onnxmake::Attention.
    """
    batch, heads, seq, dim = q.shape
    if context.past is None:
        context.present[module.layer_idx] = k, v
        return torch.zeros(batch, seq, heads, v.shape[3]), None
    past_k, past_v = context.past[module.layer_idx]
    total = past_k.shape[2] + seq
    attributes: dict[str, int | float] = {"scale": float(dim**-0.5 if scaling is None else scaling)}
    window = getattr(module, "sliding_window", None) if sliding_window is None else sliding_window
    if window:
        attributes["window"] = int(window)
    if softcap:
        attributes["softcap"] = float(softcap)
    out, *context.present[module.layer_idx] = torch.onnx.ops.symbolic_multi_out(
        "onnxmake::Attention",
        [q, k, v, past_k, past_v, context.mask, *([] if s_aux is None else [s_aux])],
        attributes,
        dtypes=[q.dtype] * 3,
        version=1,
        shapes=[
            [batch, seq, heads, v.shape[3]],
            [batch, k.shape[1], total, k.shape[3]],
            [batch, v.shape[1], total, v.shape[3]],
        ],
    )
    return out, None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)


class PassThroughCache(DynamicCache):
    """Hands new keys and values through: the semantic op owns past and present."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, *_, **__) -> int:
        return 0 if context.past is None else next(iter(context.past.values()))[0].shape[2]


class Decoder(nn.Module):
    """The traced module: a causal LM with its caches as plain tensors, one pair for each layer index in `layers`."""

    def __init__(self, model: nn.Module, layers: list[int]):
        super().__init__()
        self.model, self.layers = model, layers

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: list[tuple[Tensor, Tensor]] | None = None,
    ):
        context.past = dict(zip(self.layers, past)) if past else None
        context.mask, context.present = attention_mask, {}
        out = self.model(
            input_ids=input_ids,
            position_ids=position_ids,
            past_key_values=PassThroughCache(config=self.model.config),
            use_cache=True,
        )
        return out.logits, [context.present[i] for i in self.layers]


def example_inputs(decoder: Decoder) -> tuple[dict, dict]:
    """Inputs to trace with and their dynamic dimensions.

    Batch 2, five past tokens and three new ones, caches as wide as the layers make them.
    """
    ids, positions = torch.ones(2, 3, dtype=torch.int64), torch.arange(5, 8).repeat(2, 1)
    decoder(ids, torch.ones(2, 3, dtype=torch.int64), positions)
    past = [tuple(torch.zeros(2, t.shape[1], 5, t.shape[3]) for t in context.present[i]) for i in decoder.layers]
    dynamic = torch.export.Dim.DYNAMIC
    both = {0: dynamic, 1: dynamic}
    return (
        dict(input_ids=ids, attention_mask=torch.ones(2, 8, dtype=torch.int64), position_ids=positions, past=past),
        dict(
            input_ids=both, attention_mask=both, position_ids=both, past=[({0: dynamic, 2: dynamic},) * 2 for _ in past]
        ),
    )
