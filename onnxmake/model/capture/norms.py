"""Norms: a module with a weight becomes one semantic op where a probe agrees with the op's formula."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

RTOL = 1e-5  # float32 formulas that differ in the order of operations agree to about 1e-6


def agree(actual: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding, relative to the largest value."""
    return (
        actual.shape == expected.shape and (actual - expected).abs().max().item() <= RTOL * expected.abs().max().item()
    )


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * (offset + weight) over the last axis; offset 1 in Gemma.

    Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * (offset + weight)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, offset: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + epsilon) * (offset + weight) + bias over the last axis; offset 1 in Nemotron.

    Ba et al. 2016, "Layer Normalization".
    """
    return functional.layer_norm(x, weight.shape, offset + weight, bias, epsilon)


def probed(module: nn.Module, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor | None:
    """What the module makes of x with these parameters; None where it is no function of one tensor of this width."""
    before = dict(module._parameters)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            module._parameters[name] = nn.Parameter(value, requires_grad=False)
    try:
        out = module(x)
    except (TypeError, RuntimeError, ValueError, AttributeError):
        return None
    finally:
        module._parameters.update(before)
    return out if isinstance(out, Tensor) else None


def _formulas(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[str, dict, Tensor]]:
    """Op, attributes and result of every candidate, the epsilons being the numbers that the module holds."""
    for epsilon in sorted({value for value in vars(module).values() if isinstance(value, float)}):
        for offset in (0.0, 1.0):
            attributes = {"epsilon": epsilon, "offset": offset}
            if bias is None:
                yield "RMSNorm", attributes, rms_norm(x, weight, epsilon, offset)
            yield "LayerNorm", attributes, layer_norm(x, weight, bias, epsilon, offset)


@torch.no_grad()
def norm(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The forward of a module that holds a 1-D weight, perhaps a bias, and computes one of the formulas."""
    known = {name: p for name, p in module._parameters.items() if p is not None}
    if set(known) not in ({"weight"}, {"weight", "bias"}) or known["weight"].ndim != 1 or list(module.children()):
        return None
    generator, shape = torch.Generator().manual_seed(0), known["weight"].shape
    weight = torch.rand(shape, generator=generator) + 0.5
    bias = torch.randn(shape, generator=generator) if "bias" in known else None
    small = torch.tensor([1.0, 1e-1, 1e-2, 1e-3])[:, None]  # small rows tell epsilons apart
    x = torch.randn(4, *shape, generator=generator) * small
    actual = probed(module, weight, bias, x)
    if actual is None:
        return None
    for op, attributes, result in _formulas(module, x, weight, bias):
        if all(agree(a, b) for a, b in zip(actual, result)):

            def forward(x: Tensor, *more, op=op, attributes=attributes, original=module.forward, **named) -> Tensor:
                if any(value is not None for value in (*more, *named.values())):  # a gate, say: not what was probed
                    return original(x, *more, **named)
                operands = [x, module.weight] + ([] if bias is None else [module.bias])
                return torch.onnx.ops.symbolic(
                    f"onnxmake::{op}", operands, attributes, dtype=x.dtype, shape=list(x.shape), version=1
                )

            return forward
    return None
