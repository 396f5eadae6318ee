"""Modules and functions that become one semantic op each, for the time of the trace."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from onnxmake.model.capture import rotary, rotations
from onnxmake.model.capture.norms import agree, norm, probed
from onnxmake.model.capture.recurrence import FUNCTIONS


@torch.no_grad()
def _is_linear(module: nn.Module) -> bool:
    """nn.Linear, GPT-2's Conv1D, or a subclass such as Falcon's that computes the same of small weights."""
    if type(module) in (nn.Linear, Conv1D):
        return True
    known = {name for name, p in module._parameters.items() if p is not None}
    if not isinstance(module, nn.Linear) or not known <= {"weight", "bias"} or list(module.children()):
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(3, 5, generator=generator), torch.randn(2, 4, 5, generator=generator)
    bias = torch.randn(3, generator=generator) if "bias" in known else None
    actual = probed(module, weight, bias, x)
    return actual is not None and agree(actual, functional.linear(x, weight, bias))


def _linear(module: nn.Module) -> Callable | None:
    """y = x W^T + b; Conv1D stores W^T."""
    if not _is_linear(module):
        return None

    def forward(x: Tensor) -> Tensor:
        weight = module.weight.t() if type(module) is Conv1D else module.weight
        inputs = [x, weight] + ([] if module.bias is None else [module.bias])
        shape = [*x.shape[:-1], weight.shape[0]]
        return torch.onnx.ops.symbolic("onnxmake::Linear", inputs, {}, dtype=x.dtype, shape=shape, version=1)

    return forward


def _gelu(module: nn.Module) -> Callable | None:
    """The tanh approximation of GELU, written out in many ways. Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"."""
    if list(module.children()) or list(module.parameters()) or "gelu" not in type(module).__name__.lower():
        return None
    x = torch.linspace(-6, 6, 101)
    try:
        actual = module(x)
    except (TypeError, RuntimeError):
        return None
    if not isinstance(actual, Tensor) or not agree(actual, functional.gelu(x, approximate="tanh")):
        return None
    return lambda x: functional.gelu(x, approximate="tanh")


def _functions(model: nn.Module, layout: str) -> Iterator[tuple[ModuleType, str, Callable]]:
    """Modelling file, name and stand-in of each function that has one."""
    for file in {sys.modules[type(module).__module__] for module in model.modules()}:
        for name in FUNCTIONS.keys() & vars(file).keys():
            yield file, name, FUNCTIONS[name]  # type: ignore[misc]
        if turn := rotations.complex_rotation(vars(file).get(rotations.APPLY_COMPLEX)):
            yield file, rotations.APPLY_COMPLEX, turn
        if rotations.APPLY in vars(file):
            yield file, rotations.APPLY, rotations.rotation(vars(file)[rotations.APPLY], layout)


@contextmanager
def semantic_modules(model: nn.Module) -> Iterator[None]:
    """Within: every module and function of `model` that a probe or a name explains emits its semantic op when traced."""
    replaced, layouts = [], set()
    for module in model.modules():
        forward = _linear(module) or norm(module) or _gelu(module) or rotary.table(module)
        if rotary.is_table(module):
            layouts.add(getattr(forward, "layout", "halves"))
        if forward is not None:
            replaced.append((module, forward))
    functions = list(_functions(model, layouts.pop() if len(layouts) == 1 else "halves"))
    before = [(file, name, vars(file)[name]) for file, name, _ in functions]
    for module, forward in replaced:
        module.forward = forward
    for file, name, function in functions:
        setattr(file, name, function)
    try:
        yield
    finally:
        for module, _ in replaced:
            del module.forward
        for file, name, function in before:
            setattr(file, name, function)
