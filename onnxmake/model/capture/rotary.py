"""Rotary embeddings: tables and rotations become semantic ops where a probe agrees with the formula.

Su et al. 2021, "RoFormer". A rotation turns channel i with i + R/2, or with its neighbour (interleaved). A table holds
each frequency twice, in its two halves or in neighbours, or once.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from onnxmake.model.capture.norms import agree
from onnxmake.model.capture.phasors import as_pair, complex_rotation_of

APPLY = "apply_rotary_pos_emb"  # what modelling files call their rotation


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of a table, from [..., R/2]
    "halves": lambda x: torch.cat([x, x], -1),
    "neighbours": lambda x: x.repeat_interleave(2, -1),
    "once": lambda x: x,
}


def is_table(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RotaryEmbedding") and hasattr(module, "config")


@torch.no_grad()
def table(module: nn.Module) -> Callable | None:
    """A rotary embedding: cos and sin [B,S,R] of position x frequency, times a scale.

    Frequencies may depend on how far the positions reach (longrope: one set up to `threshold` positions, another
    beyond).
    """
    if not is_table(module):
        return None
    by_type = "layer_type" in inspect.signature(inspect.unwrap(type(module).forward)).parameters
    types = sorted(set(module.config.layer_types)) if by_type else [None]
    tables = {t: _probe(module, t) for t in types}
    if None in tables.values():
        return None

    original = module.forward
    is_complex = not by_type and isinstance(original(torch.zeros(1), torch.zeros(1, 1)), Tensor)
    if is_complex and complex_rotation_of(module) is None:
        return None

    def forward(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, ...] | Tensor:
        if position_ids.ndim != 2:  # positions in text, height and width
            return original(x, position_ids, *([] if layer_type is None else [layer_type]))
        attributes = tables[layer_type]
        width = len(attributes["frequencies"]) * (1 if attributes["layout"] == "once" else 2)
        shape = [*position_ids.shape, width]
        pair = torch.onnx.ops.symbolic_multi_out(
            "onnxmake::RotaryTable", [position_ids], attributes, dtypes=[x.dtype] * 2, shapes=[shape] * 2, version=1
        )
        return torch.cat(list(pair), -1) if is_complex else tuple(pair)

    forward.layout = tables[types[0]]["layout"]  # type: ignore[attr-defined,index]
    return forward


def _probe(module: nn.Module, layer_type: str | None) -> dict | None:
    """Attributes of the RotaryTable op that equals the module on all probed positions, or None."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    extra = () if layer_type is None else (layer_type,)
    parameters = module.config.rope_parameters if layer_type is None else module.config.rope_parameters[layer_type]
    limit = module.config.max_position_embeddings
    threshold = min(int(parameters.get("original_max_position_embeddings") or limit), limit)

    def call(last: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        positions = torch.tensor(sorted({p for p in (0, 1, 2, 7, 63, last // 2, last) if p <= last}))[None]
        cos, sin = as_pair(module(torch.zeros(1), positions, *extra))
        return positions, cos, sin, getattr(module, f"{prefix}inv_freq").clone().float()

    def explained(last: int, frequencies: Tensor, scale: float, layout: str) -> bool:
        positions, cos, sin, _ = call(last)
        angle = LAYOUTS[layout](positions[..., None].float() * frequencies)
        return agree(cos, angle.cos() * scale) and agree(sin, angle.sin() * scale)

    try:
        (_, far_cos, _, far), (_, cos, _, near) = call(limit - 1), call(threshold - 1)
    except (AttributeError, TypeError, KeyError, ValueError):  # another kind of table: left as the plain code it is
        return None
    scale, far_scale = cos[0, 0, 0].item(), far_cos[0, 0, 0].item()
    for layout in LAYOUTS:
        if scale == far_scale and all(
            explained(last, frequencies, scale, layout)
            for last, frequencies in ((threshold - 1, near), (limit - 1, far))
        ):
            break
    else:
        return None
    attributes = {"frequencies": near.tolist(), "scale": scale, "positions": limit, "layout": layout}
    if not torch.equal(near, far):
        if not explained(threshold, far, scale, layout):
            return None
        attributes |= {"far_frequencies": far.tolist(), "threshold": threshold}
    return attributes


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotate the first R channels of x [B,H,S,D] by cos and sin [B,S,R/2]; the rest passes."""
    cos, sin = (LAYOUTS["neighbours" if interleaved else "halves"](t).unsqueeze(1) for t in (cos, sin))
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    if interleaved:
        swapped = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
    else:
        first, second = turned.chunk(2, -1)
        swapped = torch.cat([-second, first], -1)
    return torch.cat([turned * cos + swapped * sin, rest], -1)


def _rotates(function: Callable, dim: int, width: int, layout: str) -> bool | None:
    """Whether the function is an interleaved rotation or one by halves, given a table of this layout."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, dim, generator=generator) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, width // 2, generator=generator) for _ in range(2))
    try:
        actual = function(q, k, LAYOUTS[layout](cos), LAYOUTS[layout](sin))
    except (RuntimeError, TypeError, ValueError, IndexError):  # other argument list, or no partial rotation
        return None
    for interleaved in (False, True):
        if all(agree(a, rotate(x, cos, sin, interleaved)) for a, x in zip(actual, (q, k))):
            return interleaved
    return None


@torch.no_grad()
def rotation(original: Callable, layout: str) -> Callable:
    """Two RotaryEmbedding ops where the modelling file's function is a rotation of these widths; itself elsewhere."""
    verdicts = {width: _rotates(original, 32, width, layout) for width in (32, 16)}

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor | None = None, *args, **kwargs):
        if sin is None:  # another signature than the usual one
            return original(q, k, cos, *args, **kwargs)
        width = cos.shape[-1] * (2 if layout == "once" else 1)
        interleaved = verdicts[32] if q.shape[-1] == width else verdicts[16]
        if args or kwargs or interleaved is None or q.ndim != 4 or q.shape[-1] != k.shape[-1]:
            return original(q, k, cos, sin, *args, **kwargs)
        attributes = {"interleaved": int(interleaved), "layout": layout}
        return tuple(
            torch.onnx.ops.symbolic(
                "onnxmake::RotaryEmbedding", [x, cos, sin], attributes, dtype=x.dtype, shape=list(x.shape), version=1
            )
            for x in (q, k)
        )

    return apply
