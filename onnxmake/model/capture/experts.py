"""Mixtures of experts through Transformers' registry: one semantic op where a probe explains the gate.

Elsewhere plain code: every token through every expert, weighed by its routing.
"""

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ExpertsInterface

from onnxmake.model.capture.norms import agree

NAME = "onnxmake"
_gates: WeakKeyDictionary[nn.Module, dict[str, float] | None] = WeakKeyDictionary()


def swiglu(x: Tensor, alpha: float, beta: float, limit: float, interleaved: float) -> Tensor:
    """[.., 2I] -> [.., I]: g sigmoid(alpha g) (u + beta), gate and up in halves or alternating, both within a limit if any.

    Shazeer 2020, "GLU Variants Improve Transformer"; alpha, beta and limit as in gpt-oss.
    """
    gate, up = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    if limit:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + beta)


def _candidates(module: nn.Module) -> Iterator[dict[str, float]]:
    held = sorted({value for value in vars(module).values() if isinstance(value, float)})
    for interleaved in (0, 1):
        for alpha, beta, limit in ((a, b, c) for a in (1.0, *held) for b in (0.0, 1.0) for c in (0.0, *held)):
            yield {"alpha": alpha, "beta": beta, "limit": limit, "interleaved": interleaved}


@torch.no_grad()
def _gate(module: nn.Module) -> dict[str, float] | None:
    """Attributes of the `swiglu` that the module computes between its two products."""
    if not module.has_gate or module.has_post_expert_norm:
        return None
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 2, 16)[:, None]
    actual = module._apply_gate(x)
    return next((c for c in _candidates(module) if all(map(agree, actual, swiglu(x, **c)))), None)


def experts(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """hidden [T,H], index and weights [T,K] -> [T,H], as Transformers' experts functions."""
    if not torch.compiler.is_exporting():  # a first call, before the trace
        _gates[module] = _gate(module)
    attributes = _gates[module]
    if attributes is None or not torch.compiler.is_exporting():
        return _dense(module, hidden, index, weights)
    stacks = [getattr(module, f"{name}_proj") for name in ("gate_up", "down")]
    stacks = [w.transpose(1, 2) if module.is_transposed else w for w in stacks]
    biases = [getattr(module, f"{name}_proj_bias") for name in ("gate_up", "down")] if module.has_bias else []
    return torch.onnx.ops.symbolic(
        "onnxmake::Experts",
        [hidden, index, weights, *stacks, *biases],
        attributes,
        dtype=hidden.dtype,
        shape=list(hidden.shape),
        version=1,
    )


def _dense(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    routing = torch.zeros(hidden.shape[0], module.num_experts, dtype=weights.dtype).scatter_add(1, index, weights)

    def linear(x: Tensor, name: str) -> Tensor:
        weight = getattr(module, f"{name}_proj")
        out = torch.matmul(x, weight if module.is_transposed else weight.transpose(1, 2))
        return out + getattr(module, f"{name}_proj_bias")[:, None] if module.has_bias else out

    inner = linear(hidden[None], "gate_up" if module.has_gate else "up")
    out = linear(module._apply_gate(inner) if module.has_gate else module.act_fn(inner), "down")
    if module.has_post_expert_norm:
        out = module.post_expert_norm(out)
    return (out * routing.t()[..., None].to(out.dtype)).sum(0).to(hidden.dtype)


ExpertsInterface.register(NAME, experts)
