"""Modules that become one semantic op each.

Replaced before the trace, and only where a probe agrees with the op's formula.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RTOL = 1e-5  # float32 formulas that differ in the order of operations agree to about 1e-6

APPLY = "apply_rotary_pos_emb"  # what modelling files call their rotation


def _agree(actual: Tensor, expected: Tensor) -> bool:
    return (
        actual.shape == expected.shape and (actual - expected).abs().max().item() <= RTOL * expected.abs().max().item()
    )


def _linear(module: nn.Module) -> Callable | None:
    """nn.Linear itself, not a subclass: y = x W^T + b."""
    if type(module) is not nn.Linear:
        return None

    def forward(x: Tensor) -> Tensor:
        inputs = [x, module.weight] + ([] if module.bias is None else [module.bias])
        return torch.onnx.ops.symbolic(
            "onnxmake::Linear", inputs, {}, dtype=x.dtype, shape=[*x.shape[:-1], module.out_features], version=1
        )

    return forward


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * (offset + weight) over the last axis; offset 1 in Gemma.

    Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * (offset + weight)


@torch.no_grad()
def _rms_norm(module: nn.Module) -> Callable | None:
    """A module with one 1-D weight that computes `rms_norm` for an epsilon it holds and an offset of 0 or 1."""
    if (
        list(module._parameters) != ["weight"]
        or module.weight is None
        or module.weight.ndim != 1
        or list(module.children())
    ):
        return None
    generator, zero = torch.Generator().manual_seed(0), module._parameters["weight"]
    weight = torch.rand(zero.shape, generator=generator) + 0.5
    x = (
        torch.randn(4, *zero.shape, generator=generator) * torch.tensor([1.0, 1e-1, 1e-2, 1e-3])[:, None]
    )  # small rows tell epsilons apart
    module._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    try:
        actual = module(x)
    except (TypeError, RuntimeError, ValueError):  # takes something else than one tensor of this width: not a norm
        return None
    finally:
        module._parameters["weight"] = zero
    epsilons = {value for value in vars(module).values() if isinstance(value, float)}
    for epsilon, offset in ((e, o) for e in sorted(epsilons) for o in (0.0, 1.0)):
        if isinstance(actual, Tensor) and all(
            _agree(a, b) for a, b in zip(actual, rms_norm(x, weight, epsilon, offset))
        ):
            return lambda x: torch.onnx.ops.symbolic(
                "onnxmake::RMSNorm",
                [x, module.weight],
                {"epsilon": epsilon, "offset": offset},
                dtype=x.dtype,
                shape=list(x.shape),
                version=1,
            )
    return None


@torch.no_grad()
def _rotary_table(module: nn.Module) -> Callable | None:
    """A rotary embedding: cos and sin [B,S,R] of position x frequency, times a scale.

    Each frequency stands twice, in the first half and in the second.

    Frequencies may depend on how far the positions reach (longrope: one set up to `threshold` positions, another
    beyond).
    """
    if not type(module).__name__.endswith("RotaryEmbedding") or not hasattr(module, "config"):
        return None
    by_type = "layer_type" in inspect.signature(inspect.unwrap(type(module).forward)).parameters
    types = sorted(set(module.config.layer_types)) if by_type else [None]
    tables = {t: _probe_table(module, t) for t in types}
    if None in tables.values():
        return None

    def forward(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, ...]:
        attributes = tables[layer_type]
        shape = [*position_ids.shape, 2 * len(attributes["frequencies"])]
        return tuple(
            torch.onnx.ops.symbolic_multi_out(
                "onnxmake::RotaryTable", [position_ids], attributes, dtypes=[x.dtype] * 2, shapes=[shape] * 2, version=1
            )
        )

    return forward


def _probe_table(module: nn.Module, layer_type: str | None) -> dict | None:
    """Attributes of the RotaryTable op that equals the module on all probed positions, or None."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    extra = () if layer_type is None else (layer_type,)
    parameters = module.config.rope_parameters if layer_type is None else module.config.rope_parameters[layer_type]
    limit = module.config.max_position_embeddings
    threshold = min(int(parameters.get("original_max_position_embeddings") or limit), limit)

    def call(last: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        positions = torch.tensor(sorted({p for p in (0, 1, 2, 7, 63, last // 2, last) if p <= last}))[None]
        cos, sin = module(torch.zeros(1), positions, *extra)
        return positions, cos, sin, getattr(module, f"{prefix}inv_freq").clone().float()

    def explained(last: int, frequencies: Tensor, scale: float) -> bool:
        positions, cos, sin, _ = call(last)
        angle = torch.cat([positions[..., None].float() * frequencies] * 2, -1)
        return _agree(cos, angle.cos() * scale) and _agree(sin, angle.sin() * scale)

    try:
        (_, far_cos, _, far), (_, cos, _, near) = call(limit - 1), call(threshold - 1)
    except (AttributeError, TypeError, KeyError):  # another kind of table: leave it as the plain code it is
        return None
    scale, far_scale = cos[0, 0, 0].item(), far_cos[0, 0, 0].item()
    if scale != far_scale or not explained(threshold - 1, near, scale) or not explained(limit - 1, far, scale):
        return None
    table = {"frequencies": near.tolist(), "scale": scale, "positions": limit}
    if not torch.equal(near, far):
        if not explained(threshold, far, scale):
            return None
        table |= {"far_frequencies": far.tolist(), "threshold": threshold}
    return table


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R = cos.shape[-1] channels of x [B,H,S,D] by halves; the rest passes.

    Su et al. 2021, "RoFormer", with channel i turned together with i + R/2, as in GPT-NeoX.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-second, first], -1) * sin, rest], -1)


def _rotates_half(function: Callable, dim: int, width: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, dim, generator=generator) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, width // 2, generator=generator).repeat(1, 1, 2) for _ in range(2))
    try:
        actual = function(q, k, cos, sin)
    except (RuntimeError, TypeError, ValueError):  # other argument list, or no partial rotation
        return False
    return all(_agree(a, rotate_half(x, cos, sin)) for a, x in zip(actual, (q, k)))


def _apply_rotary(original: Callable) -> Callable:
    """Two RotaryEmbedding ops where the modelling file's function is a rotation by halves of these widths.

    The function itself elsewhere.
    """
    verdicts: dict[tuple[int, int], bool] = {
        (dim, width): _rotates_half(original, dim, width) for dim, width in ((32, 32), (32, 16))
    }

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args, **kwargs):
        known = verdicts[(32, 32)] if q.shape[-1] == cos.shape[-1] else verdicts[(32, 16)]
        if args or kwargs or not known or q.ndim != 4 or q.shape[-1] != k.shape[-1]:
            return original(q, k, cos, sin, *args, **kwargs)
        return tuple(
            torch.onnx.ops.symbolic(
                "onnxmake::RotaryEmbedding", [x, cos, sin], {}, dtype=x.dtype, shape=list(x.shape), version=1
            )
            for x in (q, k)
        )

    return apply


@contextmanager
def semantic_modules(model: nn.Module) -> Iterator[None]:
    """Within: every module and rotary function of `model` that a probe explains emits its semantic op when traced."""
    files = {sys.modules[type(module).__module__] for module in model.modules()}
    functions = {file: vars(file)[APPLY] for file in files if APPLY in vars(file)}
    replaced = []
    for module in model.modules():
        forward = _linear(module) or _rms_norm(module) or _rotary_table(module)
        if forward is not None:
            module.forward = forward
            replaced.append(module)
    for file, function in functions.items():
        setattr(file, APPLY, _apply_rotary(function))
    try:
        yield
    finally:
        for module in replaced:
            del module.forward
        for file, function in functions.items():
            setattr(file, APPLY, function)
