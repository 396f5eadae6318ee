"""A Transformers model whose parameters take no memory: each is one zero, expanded to the parameter's shape."""

import sys
from collections.abc import Container
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

REGISTRY = "ALL_ATTENTION_FUNCTIONS"  # what a modelling file calls attention through; others have their own, unchanged


@contextmanager
def _parameters_on_meta():
    """Send every parameter to the meta device as it is registered.

    Buffers stay real: rotary tables are computed in constructors.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(
            module,
            name,
            None if parameter is None else nn.Parameter(parameter.detach().to("meta"), requires_grad=False),
        )

    nn.Module.register_parameter = register_on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def weightless(
    kind: type[PreTrainedModel], config: PreTrainedConfig, attention: str, experts: str, tensors: Container[str]
) -> PreTrainedModel:
    """A model of class `kind`, in evaluation mode and float32.

    With the implementations registered as `attention`, where the class goes by the registry, and `experts`.

    Parameters are tied as the config says, but where `tensors`, the checkpoint's names, hold both of a pair: those are
    two.
    """
    file = sys.modules[kind.__module__]
    with _parameters_on_meta(), no_init_weights():
        model = kind._from_config(
            config,
            attn_implementation=attention if REGISTRY in vars(file) else "eager",
            experts_implementation=experts,
            dtype=torch.float32,
        )
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)
    for target, source in model.all_tied_weights_keys.items():
        if not (target in tensors and source in tensors):
            parent, _, name = target.rpartition(".")
            setattr(model.get_submodule(parent), name, model.get_parameter(source))
    return model.eval()
