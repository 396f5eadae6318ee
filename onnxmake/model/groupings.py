"""How methods of quantisation store weights as integers in groups along the input, as quantization_config in config.json says.

Standard library only: the host describes checkpoints, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxmake.errors import UnsupportedError

WORD = 32  # bits
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """How a matrix [rows, columns] stands in a file: `turned` if as [columns, rows].

    Integers of `bits` stand in int32 words, the first in the lowest bits, a word holding those of consecutive `along`;
    `interleaved` ones in the order 0, 2, 4, 6, 1, 3, 5, 7. Without `along` it is a number each. The stored integers plus `add` are those meant.
    """

    suffix: str
    turned: bool = False
    along: str = ""  # "rows", "columns"
    interleaved: bool = False
    bits: int = 0
    add: int = 0

    @property
    def dtype(self) -> str:
        return "I32" if self.along else "I8"

    def stored(self, rows: int, columns: int) -> Shape:
        """The shape in the file."""
        if self.along == "rows":
            rows = -(-rows * self.bits // WORD)
        elif self.along == "columns":
            columns = -(-columns * self.bits // WORD)
        return (columns, rows) if self.turned else (rows, columns)

    def shape(self, stored: Shape) -> Shape:
        """Rows and columns of one that fills its words."""
        rows, columns = reversed(stored) if self.turned else stored
        each = WORD // self.bits if self.along else 1
        return (rows * each, columns) if self.along == "rows" else (rows, columns * each)


@dataclass(frozen=True)
class Grouping:
    """How a method stores a weight X.weight [N, K]: codes, scales [N, groups], zero points [N, groups], and the group of each
    input where groups are not of consecutive ones, under X and a suffix. Names that end in `unread` are not read."""

    bits: int
    group: int | None  # inputs that share a scale; None: all
    codes: Form
    scales: Form
    zeros: Form
    asymmetric: bool  # there must be zero points
    index: str = "\0"  # suffix; of nothing
    unread: tuple[str, ...] = ()
    padded: bool = False  # modules without a bias have one of zeros


def unknown(key: str, value: Any, known: str) -> UnsupportedError:
    return UnsupportedError(
        f"quantization_config in config.json has {key} = {value!r}; {known}.",
        "Each variant of a method stores its weights in a way of its own.",
        "Choose another checkpoint of the model; quantize_rtn quantises an unquantised one during the build.",
    )


def _bits(settings: Mapping[str, Any], key: str, known: Sequence[int]) -> int:
    if (bits := settings.get(key)) not in known:
        raise unknown(key, bits, f"known are {', '.join(map(str, known))}")
    return bits


def _group(settings: Mapping[str, Any], default: int) -> int | None:
    """Values that share a scale; None for all of a row. Powers of two from 16 on are what blocks can be made of."""
    size = settings.get("group_size", default)
    if size in (-1, None):
        return None
    if type(size) is not int or size < 1:
        raise unknown("group_size", size, "it is a positive number, or -1 for one group a row")
    return size


def gptq(settings: Mapping[str, Any]) -> Grouping:
    """qweight int32 [K bits / 32, N], qzeros int32 [groups, N bits / 32], scales [groups, N], g_idx int32 [K].

    Zero points are stored less one, but by the format gptq_v2. AutoGPTQ wrote a bias for every module.
    """
    bits, form = _bits(settings, "bits", (2, 4, 8)), settings.get("checkpoint_format", "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise unknown("checkpoint_format", form, "known are gptq and gptq_v2")
    if any(not name.startswith("-") for name in settings.get("dynamic") or ()):
        raise unknown("dynamic", settings["dynamic"], "weights of different bits are not read")
    codes = Form(".qweight", turned=True, along="columns", bits=bits)
    zeros = Form(".qzeros", turned=True, along="rows", bits=bits, add=int(form == "gptq"))
    return Grouping(
        bits, _group(settings, 128), codes, Form(".scales", turned=True), zeros, True, ".g_idx", padded=True
    )


def awq(settings: Mapping[str, Any]) -> Grouping:
    """qweight int32 [K, N / 8], qzeros int32 [groups, N / 8], scales [groups, N]; words are interleaved."""
    bits, version = _bits(settings, "bits", (4,)), str(settings.get("version", "gemm")).lower()
    if version != "gemm":
        raise unknown("version", version, "known is gemm")
    codes = Form(".qweight", turned=True, along="rows", interleaved=True, bits=bits)
    zeros = Form(".qzeros", turned=True, along="rows", interleaved=True, bits=bits)
    return Grouping(bits, _group(settings, 128), codes, Form(".scales", turned=True), zeros, True)


def weights_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What compressed-tensors says of weights. Raises UnsupportedError where there are several kinds, or none."""
    groups = settings.get("config_groups")
    found = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
    weights: Mapping[str, Any] = next((w for w in found if w), {})
    if not weights or any(w and w != weights for w in found):
        raise unknown("config_groups", groups, "weights of one kind are read")
    return weights


def compressed(settings: Mapping[str, Any]) -> Grouping:
    """weight_packed int32 [N, K bits / 32], weight_scale [N, groups], weight_zero_point int32 [N bits / 32, groups] and
    weight_g_idx int32 [K], or, of the format int-quantized, weight int8 [N, K] and weight_zero_point int8 [N, groups].

    K is a multiple of what a word holds. Activations that vLLM would quantise stay as they are.
    """
    form, weights = settings.get("format"), weights_of(settings)
    if form not in ("pack-quantized", "int-quantized"):
        raise unknown("format", form, "known are pack-quantized, int-quantized and float-quantized")
    if weights.get("type", "int") != "int" or weights.get("strategy") not in ("group", "channel"):
        raise unknown("weights", weights, "known are integers with a scale for each group or channel")
    packed = form == "pack-quantized"
    bits = _bits(weights, "num_bits", (2, 4, 8) if packed else (8,))
    codes = Form(".weight_packed", along="columns", bits=bits) if packed else Form(".weight", bits=bits, add=128)
    zeros = Form(".weight_zero_point", along="rows", bits=bits)
    group = _group(weights, 128) if weights["strategy"] == "group" else None
    unread = (".weight_shape", ".input_scale", ".input_zero_point", ".k_scale", ".v_scale")
    asymmetric = not weights.get("symmetric", True)
    return Grouping(bits, group, codes, Form(".weight_scale"), zeros, asymmetric, ".weight_g_idx", unread)
