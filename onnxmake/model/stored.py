"""Quantised weights that a step has made, beside its graph: a safetensors file of codes, scales and zero points."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir

from onnxmake.model.graph import attribute
from onnxmake.model.quantisers.packing import packed
from onnxmake.model.safetensors import header_of

FILE = "quantized.safetensors"
SUFFIXES = (".packed", ".scales", ".zeros")
TYPES = {np.dtype(np.uint8): "U8", np.dtype(np.float32): "F32"}


def dequantized(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, block: int) -> np.ndarray:
    """float32 [N, K] that codes [N, K] stand for, with scales and zero points [N, ceil(K / block)]."""
    group = np.arange(codes.shape[1]) // block
    return (codes.astype(np.float32) - zeros.astype(np.float32)[:, group]) * scales[:, group]


class Stored:
    """Writes the file, tensor by tensor as they come; only its header is kept in memory."""

    def __init__(self, folder: Path, names: Iterable[str]):
        """`names`: those that may come."""
        largest = {name: ("F32", [2**53]) for name in names}
        self.room, self.tensors = len(header_of(largest)) + 64 * len(largest), dict[str, tuple[str, list[int]]]()
        self.file = open(folder / FILE, "wb")  # noqa: SIM115  closed on leaving
        self.file.seek(self.room)

    def put(self, name: str, array: np.ndarray) -> None:
        """One tensor, uint8 or float32."""
        self.tensors[name] = TYPES[array.dtype], [*array.shape]
        self.file.write(np.ascontiguousarray(array).data)

    def put_codes(self, label: str, node: ir.Node, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> None:
        """Codes [N, K], scales and zero points [N, blocks] of a QuantizedWeight, which then names them."""
        bits, block = attribute(node, "bits"), attribute(node, "block_size")
        filled = np.pad(codes, ((0, 0), (0, -codes.shape[1] % block)))
        arrays = [packed(filled, bits), scales, packed(zeros, bits, 2 ** (bits - 1))]
        for array, suffix, _ in zip(arrays, SUFFIXES, node.outputs):
            self.put(label + suffix, array)
        node.attributes["stored"] = ir.AttrString("stored", label)

    def __enter__(self) -> "Stored":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.file as file:
            file.seek(0)
            file.write(header_of(self.tensors, self.room))
