"""How methods of quantisation store weights, as quantization_config in config.json names them.

Standard library only: the host describes checkpoints, too.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.groupings import Grouping, awq, compressed, gptq, unknown, weights_of

Shape = tuple[int, ...]
Layout = tuple[Shape, Shape, Sequence[Shape]]  # a tensor's shape as stored, its blocks, shapes that its scales may have


@dataclass(frozen=True)
class Scheme:
    """How a method stores a tensor X: codes of type `dtype` as X + `suffix`, and scales as X + `scales`.

    Tensors whose names end in `unread` serve its own kernels only.
    """

    dtype: str
    suffix: str
    scales: str
    unread: tuple[str, ...]
    turned: bool
    rank: int  # of codes, at least
    layout: Callable[[Shape], Layout]


def _tiles(block: Shape | None, shape: Shape) -> Layout:
    """Codes of any rank, a scale for each block of a matrix, or for each matrix where there are no blocks."""
    *lead, rows, columns = shape
    if block is None:
        return shape, (rows, columns), [(*lead, 1, 1), tuple(lead), tuple(lead) or (1,)]
    return shape, block, [(*lead, -(-rows // block[0]), -(-columns // block[1]))]


def _groups(shape: Shape) -> Layout:
    """Codes [..., rows, groups, bytes], two in a byte, and a scale for each group."""
    *lead, groups, size = shape
    return (*lead, groups * size * 2), (1, size * 2), [(*lead, groups)]


def _fp8(settings: Mapping[str, Any]) -> Scheme:
    block = settings.get("weight_block_size", (128, 128))
    if block is not None and (
        not isinstance(block, Sequence) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block)
    ):
        raise CheckpointError(
            f"config.json has weight_block_size {block!r} in quantization_config.",
            "It should be two positive numbers, or null for one scale a tensor.",
            "Fetch the file again; if it is the same, choose another checkpoint.",
        )
    layout = functools.partial(_tiles, None if block is None else tuple(block))
    return Scheme("F8_E4M3", "", "_scale_inv", ("activation_scale",), False, 2, layout)


def _mxfp4(settings: Mapping[str, Any]) -> Scheme:
    return Scheme("U8", "_blocks", "_scales", (), True, 3, _groups)


def _by_channel(shape: Shape) -> Layout:
    *lead, rows, columns = shape
    return shape, (1, columns), [(*lead, rows, 1)]


def _compressed_tensors(settings: Mapping[str, Any]) -> Scheme | Grouping:
    """Codes of fp8 as X, and scales as X_scale, of the format float-quantized; in groups any other."""
    if settings.get("format") != "float-quantized":
        return compressed(settings)
    weights = weights_of(settings)
    layouts: dict[str, Callable[[Shape], Layout]] = {"channel": _by_channel, "tensor": functools.partial(_tiles, None)}
    if weights.get("num_bits") != 8 or weights.get("strategy") not in layouts:
        raise unknown("weights", weights, "known are floats of 8 bits with a scale for each channel or tensor")
    layout = layouts[weights["strategy"]]
    return Scheme("F8_E4M3", "", "_scale", (".input_scale", ".k_scale", ".v_scale"), False, 2, layout)


SCHEMES: dict[str, Callable[[Mapping[str, Any]], Scheme | Grouping]] = {
    "fp8": _fp8,
    "mxfp4": _mxfp4,
    "gptq": gptq,
    "awq": awq,
    "compressed-tensors": _compressed_tensors,
}


def scheme_of(config: Mapping[str, Any]) -> Scheme | Grouping | None:
    """How the weights that belong to config.json `config` are quantised; None where they are not.

    Raises UnsupportedError for a method that is not known.
    """
    settings = config.get("quantization_config")
    if not settings:
        return None
    method = str(settings.get("quant_method", "unnamed")) if isinstance(settings, Mapping) else "unnamed"
    if method not in SCHEMES:
        raise UnsupportedError(
            f"The checkpoint is quantised by the method {method!r}; of quantised ones only {', '.join(SCHEMES)} are read.",
            "quantization_config in config.json says so: each method stores its weights in a way of its own.",
            "Choose the model's unquantised checkpoint; quantize_rtn quantises it during the build.",
        )
    return SCHEMES[method](settings)
