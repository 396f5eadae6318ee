"""Weights in groups of integers as arrays: codes, scales, zero points, and the values that they stand for."""

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.grouped import Grouped, Matrix
from onnxmake.model.groupings import WORD

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "I32": "uint32"}
PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # in an interleaved word
Range = tuple[int, int]


def _unpacked(words: np.ndarray, bits: int, interleaved: bool) -> np.ndarray:
    """uint32 [M, W] -> uint8 [M, W * 32 / bits]."""
    stored = np.ascontiguousarray(words).view(np.uint8)
    codes = np.empty((*stored.shape, 8 // bits), np.uint8)
    for i in range(8 // bits):
        np.bitwise_and(stored >> np.uint8(bits * i), np.uint8(2**bits - 1), out=codes[..., i])
    flat = codes.reshape(len(words), -1, WORD // bits)
    return (flat[:, :, PLACES] if interleaved else flat).reshape(len(words), -1)


def cut(matrix: Matrix, rows: Range, columns: Range) -> np.ndarray:
    """Rows and columns, each from first to stop: as stored, or of integers uint8. Only what is asked for is read."""
    form, bounds = matrix.form, {"rows": rows, "columns": columns}
    if form.along:
        each = WORD // form.bits
        first, stop = bounds[form.along]
        bounds[form.along] = first // each, -(-stop // each)
    axes = ["columns", "rows"] if form.turned else ["rows", "columns"]
    mapped = np.memmap(matrix.tensor.path, TYPES[matrix.tensor.dtype], "r", matrix.tensor.offset, matrix.tensor.shape)
    found = mapped[tuple(slice(*bounds[axis]) for axis in axes)]
    found = found.T if form.turned else found
    if form.along:
        words = found.T if form.along == "rows" else found
        found = _unpacked(words, form.bits, form.interleaved)[:, first % each :][:, : stop - first]
        found = found.T if form.along == "rows" else found
    return _unsigned(matrix, found) if form.add else found


def _unsigned(matrix: Matrix, found: np.ndarray) -> np.ndarray:
    whole = found.astype(np.int16) + np.int16(matrix.form.add)
    if whole.size and (whole.min() < 0 or whole.max() >= 2**matrix.form.bits):
        raise CheckpointError(
            f"A tensor {matrix.form.suffix} in {matrix.tensor.path.name} holds numbers that {matrix.form.bits} bits do not.",
            "The file is damaged, or checkpoint_format in config.json is not that of the weights.",
            "Fetch the checkpoint again; if it is the same, choose another.",
        )
    return whole.astype(np.uint8)


def groups_of(weight: Grouped) -> np.ndarray:
    """int64 [K]: the number of each input's group. Raises CheckpointError where there is no such group."""
    (_, width), (_, count), index = weight.shape, weight.scales.shape, weight.index
    if index is None:
        return np.arange(width) // weight.group
    found = np.fromfile(index.path, np.int32, width, offset=index.offset).astype(np.int64)
    if found.size and (found.min() < 0 or found.max() >= count):
        raise CheckpointError(
            f"The groups of {weight.name} are numbered from {found.min()} to {found.max()}; there are {count}.",
            "The file is damaged, or group_size in config.json is not that of the weights.",
            "Fetch the checkpoint again; if it is the same, choose another.",
        )
    return found


def zeros(weight: Grouped, rows: Range) -> np.ndarray:
    """uint8 [rows, groups]."""
    few = weight.scales.shape[1]
    if weight.zeros is None:
        return np.full((rows[1] - rows[0], few), 2 ** (weight.bits - 1), np.uint8)
    return cut(weight.zeros, rows, (0, few))


def dequantized(weight: Grouped, rows: Range, columns: Range) -> np.ndarray:
    """float32 [rows, columns]: (code - zero point) * scale, exact where scales are of 16 bits."""
    group = groups_of(weight)[slice(*columns)]
    out = cut(weight.codes, rows, columns).astype(np.float32)
    out -= zeros(weight, rows)[:, group]
    scales = cut(weight.scales, rows, (0, weight.scales.shape[1])).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # who takes the values looks for what is not finite
        out *= scales[:, group]
    return out


def order_of(weight: Grouped) -> np.ndarray | None:
    """int64 [K]: inputs in the order of their groups; None where that is their own. Raises UnsupportedError for uneven groups."""
    group, (_, width) = groups_of(weight), weight.shape
    even = np.arange(width) // weight.group
    if (group == even).all():
        return None
    order = np.argsort(group, kind="stable")
    if (group[order] != even).any():
        raise UnsupportedError(
            f"The groups of {weight.name} are not of {weight.group} inputs each.",
            "It was quantised with groups in the order of activations, some of them longer than others.",
            "Name it under keep: it is dequantised as it is read, and left to a quantiser that follows.",
        )
    return order


def is_symmetric(weight: Grouped) -> bool:
    """Whether all zero points are 2^(bits - 1), which products need not read."""
    return weight.zeros is None or bool((zeros(weight, (0, weight.shape[0])) == 2 ** (weight.bits - 1)).all())
