"""Rotary embeddings written with complex numbers, as in Llama 4 and DeepSeek V2: ONNX has none.

In a trace the table is real, [B, S, R]: cosines, then sines; and the rotation is the op that turns neighbours.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from onnxmake.model.capture.norms import agree

APPLY = "apply_rotary_emb"  # what these modelling files call their rotation
BATCH, HEADS, TOKENS, WIDTH = 2, 4, 3, 16


def as_pair(table: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """cos and sin of what a rotary module returns. Raises TypeError for a tensor that is not complex."""
    if not isinstance(table, Tensor):
        return table
    if not table.is_complex():
        raise TypeError("a real table")
    return table.real, table.imag


def complex_rotation_of(module: nn.Module) -> Callable | None:
    """The stand-in for the rotation in the module's file, if that file has one."""
    original = vars(sys.modules[type(module).__module__]).get(APPLY)
    return None if original is None else rotation(original)


@torch.no_grad()
def _heads_axis(original: Callable) -> int | None:
    """Where q and k have their heads: 1 or 2; None where the function is another."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.randn(BATCH, TOKENS, WIDTH // 2, generator=generator)
    table = torch.polar(torch.full_like(angle, 1.5), angle)
    q, k = (torch.randn(BATCH, HEADS, TOKENS, WIDTH, generator=generator) for _ in range(2))
    for axis in (1, 2):
        try:
            turned = original(*(x.transpose(1, axis) for x in (q, k)), table)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            continue
        wanted = [
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * table[:, None]).flatten(-2)
            for x in (q, k)
        ]
        if all(agree(a.transpose(1, axis), b) for a, b in zip(turned, wanted)):
            return axis
    return None


def rotation(original: Callable) -> Callable | None:
    """Two RotaryEmbedding ops in place of the modelling file's function; None where a probe does not explain it."""
    axis = _heads_axis(original)
    if axis is None:
        return None

    def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x.transpose(1, axis)
        attributes = {"interleaved": 1, "layout": "once"}
        shape = list(x.shape)
        out = torch.onnx.ops.symbolic(
            "onnxmake::RotaryEmbedding", [x, cos, sin], attributes, dtype=x.dtype, shape=shape, version=1
        )
        return out.transpose(1, axis)

    def apply(q: Tensor, k: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        cos, sin = table.chunk(2, -1)
        return tuple(turn(x, cos, sin) for x in (q, k))

    return apply
