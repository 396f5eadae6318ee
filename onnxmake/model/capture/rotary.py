"""Tables of rotary embeddings become semantic ops where a probe agrees with the formula.

Su et al. 2021, "RoFormer". A table holds each frequency twice, in its two halves or in neighbours, or once; as two tensors,
or as one of complex numbers.
"""

import inspect
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from onnxmake.model.capture.norms import agree
from onnxmake.model.capture.rotations import APPLY_COMPLEX, LAYOUTS, complex_rotation


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
    if is_complex and complex_rotation(vars(sys.modules[type(module).__module__]).get(APPLY_COMPLEX)) is None:
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


def _pair(table: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """cos and sin of what a rotary module returns. Raises TypeError for a tensor that is not complex."""
    if not isinstance(table, Tensor):
        return table
    if not table.is_complex():
        raise TypeError("a real table")
    return table.real, table.imag


def _probe(module: nn.Module, layer_type: str | None) -> dict | None:
    """Attributes of the RotaryTable op that equals the module on all probed positions, or None."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    extra = () if layer_type is None else (layer_type,)
    parameters = module.config.rope_parameters if layer_type is None else module.config.rope_parameters[layer_type]
    limit = module.config.max_position_embeddings
    threshold = min(int(parameters.get("original_max_position_embeddings") or limit), limit)

    def call(last: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        positions = torch.tensor(sorted({p for p in (0, 1, 2, 7, 63, last // 2, last) if p <= last}))[None]
        cos, sin = _pair(module(torch.zeros(1), positions, *extra))
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
