"""What a decoder remembers between calls: keys and values, convolution windows, recurrent states.

A cache for Transformers' models whose past comes in as tensors and whose present goes out as tensors.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from onnxmake.model.capture.masks import Visibility

# Transformers' word for a state -> GenAI's, and which of its axes grows with the past
NAMES = {
    "key": ("key", 2),
    "value": ("value", 2),
    "index": ("index_key", 1),  # of sparse attention, which chooses its keys by others; GenAI has no word for it
    "conv": ("conv_state", None),
    "recurrent": ("recurrent_state", None),
}


@dataclass(frozen=True, order=True)
class State:
    """One tensor of the past: the layer's index, what it holds, and which of several of that kind it is."""

    layer: int
    kind: str
    number: int = 0

    @property
    def name(self) -> str:
        return NAMES[self.kind][0] + (f".{self.number}" if self.number else "")

    @property
    def growing(self) -> int | None:
        """The axis that counts tokens."""
        return NAMES[self.kind][1]


@dataclass
class Update:
    """Keys or values as one layer handed them in, and as they stand behind the past."""

    new: Tensor
    all: Tensor
    past: Tensor


@dataclass
class Context:
    """What one call shares between the layers and registered functions of a model. A first call has no past, and learns."""

    mask: Tensor  # [batch, total], 0 for padding
    past: dict[State, Tensor] = field(default_factory=dict)
    present: dict[State, Tensor] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    visibilities: list[Visibility | None] = field(default_factory=list)  # what the model's masks say, in its order
    masks: list[Tensor] = field(default_factory=list)  # and those of this call
    recurrent: Tensor | None = None  # the past state that was asked for last

    @property
    def length(self) -> int:
        """Tokens before this call."""
        return next((t.shape[s.growing] for s, t in self.past.items() if s.growing), 0)

    def visibility(self, mask: Tensor | None) -> Visibility | None:
        """What a mask that came through untouched says."""
        return next((seen for m, seen in zip(self.masks, self.visibilities) if m is mask), None)

    def update_of(self, tensor: Tensor) -> Update | None:
        """The update whose result `tensor` is, untouched."""
        return next((u for u in self.updates if u.all is tensor), None)


class TensorCache(DynamicCache):
    """Reads `context.past` and fills `context.present`; keeps every key and value, whatever the layer's window."""

    def __init__(self, config, context: Context):
        super().__init__(config=config)
        self.context = context

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        return self._append(State(layer_idx, "key"), key_states), self._append(State(layer_idx, "value"), value_states)

    def _append(self, state: State, new: Tensor) -> Tensor:
        past = self.context.past.get(state)
        if past is None:
            past = new.narrow(state.growing, 0, 0)
        whole = torch.cat([past, new], state.growing)
        self.context.present[state] = whole
        self.context.updates.append(Update(new, whole, past))
        return whole

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int, *_, **__) -> Tensor:
        return self._append(State(layer_idx, "index"), indexer_key_states)

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self.context.past.get(State(layer_idx, "conv", state_idx))

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None, **_
    ) -> Tensor:
        state = State(layer_idx, "conv", state_idx)
        past = self.context.past.get(state)
        if past is None:
            width = conv_states.shape[-1] if conv_kernel_size is None else conv_kernel_size
            past = conv_states.new_zeros(*conv_states.shape[:-1], width)
        whole = torch.cat([past, conv_states], -1)
        self.context.present[state] = whole[..., -past.shape[-1] :]
        return whole

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        self.context.recurrent = self.context.past.get(State(layer_idx, "recurrent", state_idx))
        return self.context.recurrent

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_) -> Tensor:
        self.context.present[State(layer_idx, "recurrent", state_idx)] = recurrent_states
        return recurrent_states

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return any(s.kind in ("conv", "recurrent") for s in self.context.past)

    def is_recording_past(self, layer_idx: int) -> bool:
        return True  # so that a step of one token takes the code for any number of them

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.context.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.context.length + query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.context.length
