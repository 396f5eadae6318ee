"""The traced form of a causal language model: its past as plain tensors in, its present out."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onnxmake.errors import UnsupportedError
from onnxmake.model.capture import attention
from onnxmake.model.capture.masks import Visibility
from onnxmake.model.capture.states import Context, State, TensorCache

DIMENSIONS: dict[str, tuple[str | None, ...]] = {
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "total"),
    "position_ids": ("batch", "sequence"),
}


OWN_POSITIONS = "create_position_ids_from_input_ids"  # RoBERTa and its kin count from their padding's number on


def accepted(model: PreTrainedModel) -> set[str]:
    """What to call the model with: its forward's parameters, without positions where it counts them in a way of its own."""
    own = any(hasattr(module, OWN_POSITIONS) for module in model.modules())
    return set(inspect.signature(model.forward).parameters) - ({"position_ids"} if own else set())


class Decoder(nn.Module):
    """A causal LM with one tensor for each of `states`."""

    unread: Sequence[str] = ()  # patterns of tensors that a checkpoint may hold without a use

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.states: list[State] = []
        self.inputs, self.outputs, self.dimensions = list(DIMENSIONS), ["logits"], DIMENSIONS
        self.visibilities: list[Visibility | None] = []
        self.takes = accepted(model)

    def call(self, context: Context, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Run the model within `context`; returns logits [B,S,V]."""
        attention.begin(context)
        offered = {
            "input_ids": input_ids,
            "attention_mask": context.mask,
            "position_ids": position_ids,
            "past_key_values": TensorCache(self.model.config, context),
            "use_cache": True,
        }
        offered["cache_params"] = offered["past_key_values"]
        return self.model(**{name: value for name, value in offered.items() if name in self.takes}).logits

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]):
        pasts = dict(zip(self.states, past))
        context = Context(attention_mask, pasts, visibilities=list(self.visibilities))
        logits = self.call(context, input_ids, position_ids)
        return logits, [context.present[state] for state in self.states]

    def example_inputs(self) -> tuple[dict, dict]:
        """Inputs to trace with and their dynamic dimensions.

        Batch 2, five past tokens and three new ones, states as wide as the layers make them: a first call without past
        tells which there are.
        """
        ids, positions = torch.ones(2, 3, dtype=torch.int64), torch.arange(5, 8).repeat(2, 1)
        first = Context(torch.ones(2, 3, dtype=torch.int64))
        self.call(first, ids, positions - 5)
        if not first.present:
            raise UnsupportedError(
                f"{type(self.model).__name__} keeps nothing from one call to the next.",
                "It has no cache, or the checkpoint is an encoder: its config.json does not say is_decoder.",
                "Choose a checkpoint of a text-generating model.",
            )
        self.states, self.visibilities = sorted(first.present), first.visibilities
        dynamic, past, shapes = torch.export.Dim.DYNAMIC, [], []
        for state in self.states:
            shape, dims = list(first.present[state].shape), {0: dynamic}
            if state.growing:
                shape[state.growing], dims[state.growing] = 5, dynamic
            past.append(torch.zeros(shape))
            shapes.append(dims)
        both = {0: dynamic, 1: dynamic}
        mask = torch.ones(2, 8, dtype=torch.int64)
        return (
            dict(input_ids=ids, attention_mask=mask, position_ids=positions, past=past),
            dict(input_ids=both, attention_mask=both, position_ids=both, past=shapes),
        )
