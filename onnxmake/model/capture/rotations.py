"""Rotations of rotary embeddings become semantic ops where a probe agrees with the formula.

Su et al. 2021, "RoFormer". A rotation turns channel i with i + R/2, or with its neighbour (interleaved).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from onnxmake.model.capture.norms import agree

APPLY, APPLY_COMPLEX = "apply_rotary_pos_emb", "apply_rotary_emb"  # what modelling files call their rotation

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of a table, from [..., R/2]
    "halves": lambda x: torch.cat([x, x], -1),
    "neighbours": lambda x: x.repeat_interleave(2, -1),
    "once": lambda x: x,
}


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


def _op(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, layout: str) -> Tensor:
    """RotaryEmbedding of x [B,H,S,D]."""
    attributes, shape = {"interleaved": int(interleaved), "layout": layout}, list(x.shape)
    return torch.onnx.ops.symbolic(
        "onnxmake::RotaryEmbedding", [x, cos, sin], attributes, dtype=x.dtype, shape=shape, version=1
    )


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
        return tuple(_op(x, cos, sin, interleaved, layout) for x in (q, k))

    return apply


@torch.no_grad()
def _heads_axis(function: Callable) -> int | None:
    """Where q and k have their heads, 1 or 2, if the function turns neighbours by a complex table [B,S,R/2]."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.randn(2, 3, 8, generator=generator)
    table = torch.polar(torch.full_like(angle, 1.5), angle)
    q, k = (torch.randn(2, 4, 3, 16, generator=generator) for _ in range(2))
    for axis in (1, 2):
        try:
            turned = function(*(x.transpose(1, axis) for x in (q, k)), table)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            continue
        pairs = zip(turned, (q, k))
        if all(agree(a.transpose(1, axis), rotate(x, table.real, table.imag, True)) for a, x in pairs):
            return axis
    return None


def complex_rotation(original: Callable | None) -> Callable | None:
    """Two RotaryEmbedding ops in place of a function of complex numbers, of which ONNX has none, as in Llama 4 and DeepSeek V2.

    In a trace the table is real, [B,S,R]: cosines, then sines. None where there is no function, or a probe does not explain it.
    """
    axis = None if original is None else _heads_axis(original)
    if axis is None:
        return None

    def apply(q: Tensor, k: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        cos, sin = table.chunk(2, -1)
        return tuple(_op(x.transpose(1, axis), cos, sin, True, "once").transpose(1, axis) for x in (q, k))

    return apply
