"""The traced form of a model without a past: text, pictures or sound in, every tensor that Transformers returns out."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

from onnxmake.errors import UnsupportedError
from onnxmake.model.capture import attention
from onnxmake.model.capture.masks import Visibility
from onnxmake.model.capture.states import Context, State

# Input -> its dimensions; None: fixed, as the config says
DIMENSIONS: dict[str, tuple[str | None, ...]] = {
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "sequence"),
    "token_type_ids": ("batch", "sequence"),
    "pixel_values": ("batch", None, "height", "width"),
    "input_features": ("batch", None, None),
}
DEPENDENT = {"attention_mask", "token_type_ids"}  # of input_ids: what else has a mask is not text
CHOICES = frozenset(MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES.values())  # classes that read several texts for each answer
FREE = {"height", "width"}  # of pictures whose size the config leaves open

# Heads of the training behind a checkpoint, which it may hold without a use: bert-base has two that the class it names lacks.
HEADS = r"""(^|\.)(pooler|cls|classifier|lm_head|mlm_head|qa_outputs|seq_relationship|predictions|generator_predictions|
    discriminator_predictions|vocab_transform|vocab_layer_norm|vocab_projector)(\.|$)"""


class Encoder(nn.Module):
    """`part` of a model, called with a dict of inputs."""

    unread = ("".join(HEADS.split()),)

    def __init__(self, model: PreTrainedModel, part: str):
        super().__init__()
        self.model = model
        found = _part(model, part)
        self.run: Callable = found.__call__  # type: ignore[operator]  # a module would be a child, under a second name
        self.takes = inspect.signature(getattr(found, "forward", found)).parameters
        self.config = _config(model.config, part)
        self.picture = getattr(self.config, "vision_config", self.config)
        self.inputs = [name for name in DIMENSIONS if self._has(name)]
        asked = [name for name, p in self.takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        lacking = [name for name in asked if name not in DIMENSIONS]
        if lacking or not self.inputs:
            raise UnsupportedError(
                f"{type(model).__name__} reads {', '.join(lacking or self.takes)}.",
                f"What can be exported reads {', '.join(DIMENSIONS)}.",
                "Choose another checkpoint.",
            )
        self.outputs: list[str] = []
        self.states: list[State] = []
        self.visibilities: list[Visibility | None] = []  # found in the first call
        self.dimensions = DIMENSIONS
        if type(model).__name__ in CHOICES and part == "model":
            self.dimensions = DIMENSIONS | dict.fromkeys(("input_ids", *DEPENDENT), ("batch", "choices", "sequence"))

    def _has(self, name: str) -> bool:
        kinds = getattr(self.config, "type_vocab_size", 0) or 0
        return (
            name in self.takes
            and (name not in DEPENDENT or "input_ids" in self.takes)
            and (name != "token_type_ids" or kinds > 1)
        )

    def call(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor of the model's output by name."""
        mask = inputs.get("attention_mask")
        context = Context(None if mask is None else mask.flatten(0, -2), visibilities=self.visibilities)
        attention.begin(context)
        more: dict[str, Any] = {"use_cache": False} if "use_cache" in self.takes else {}
        return {name: value for name, value in self.run(**inputs, **more).items() if isinstance(value, Tensor)}

    def forward(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        made = self.call(inputs)
        return [made[name] for name in self.outputs]

    def example_inputs(self) -> tuple[dict, dict]:
        """Inputs to trace with and their dynamic dimensions; a first call tells which outputs there are."""
        inputs = {name: self.example(name) for name in self.inputs}
        self.outputs = list(self.call(inputs))
        if not self.outputs:
            raise UnsupportedError(
                f"{type(self.model).__name__} returns no tensor by itself.",
                "What it returns is in lists, as of feature maps.",
                'Choose a checkpoint of another class, or write part = "base" under export.',
            )
        fixed = FREE if getattr(self.picture, "image_size", None) else set()
        dynamic: dict[str, dict[int, Any]] = {
            name: {
                axis: torch.export.Dim.AUTO if dim in FREE else torch.export.Dim.DYNAMIC
                for axis, dim in enumerate(self.dimensions[name])
                if dim and dim not in fixed
            }
            for name in inputs
        }
        return dict(inputs=inputs), dict(inputs=dynamic)

    def example(self, name: str) -> Tensor:
        """Something to trace with: a batch of two, seven tokens, or as much picture or sound as the config says."""
        if name == "pixel_values":
            size = getattr(self.picture, "image_size", None) or 224
            height, width = size if isinstance(size, (list, tuple)) else (size, size)
            return torch.zeros(2, getattr(self.picture, "num_channels", 3), height, width)
        if name == "input_features":
            return torch.zeros(2, self.config.num_mel_bins, 2 * self.config.max_source_positions)
        return torch.ones([{"batch": 2, "choices": 3}.get(dim, 7) for dim in self.dimensions[name]], dtype=torch.int64)


def _offered(model: PreTrainedModel) -> dict[str, Callable]:
    """What can be exported of a model by itself -> what runs it."""
    towers = {part: f"get_{kind}_features" for part, kind in (("text", "text"), ("vision", "image"))}
    if all(hasattr(model, name) for name in towers.values()):
        return {part: getattr(model, name) for part, name in towers.items()}
    if model.config.is_encoder_decoder:
        return {"encoder": model.get_encoder()}
    return {"model": model, "base": model.base_model}


def _part(model: PreTrainedModel, part: str) -> Callable:
    offered = _offered(model)
    if part not in offered:
        raise UnsupportedError(
            f"{type(model).__name__} has no part {part!r} that can be exported by itself.",
            f"What it has is {', '.join(offered)}.",
            f'Write part = "{next(iter(offered))}" under export.',
        )
    return offered[part]


def _config(config: PreTrainedConfig, part: str) -> PreTrainedConfig:
    """The part's own settings."""
    return getattr(config, f"{part}_config", config)
