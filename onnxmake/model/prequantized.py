"""Checkpoints that are stored quantised, seen as the tensors that an unquantised one would have.

Standard library only: the host describes checkpoints, too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.grouped import Grouped, grouped
from onnxmake.model.groupings import Grouping
from onnxmake.model.safetensors import Tensor, read_checkpoint, read_header
from onnxmake.model.schemes import Scheme, Shape, scheme_of

TUNED = "tuned.safetensors"  # weights that a pass has put in place of the checkpoint's
SCALES = {  # type of scales -> numpy's name of it; bytes are powers of two
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E8M0": "float8_e8m0fnu",
    "U8": "float8_e8m0fnu",
}


@dataclass(frozen=True)
class Quantized:
    """A tensor of `shape`, each value of which is a code times the scale that a `block` of rows and columns shares.

    Of `turned` ones, the matrices are stored with rows and columns exchanged; blocks are of the stored matrices.
    """

    codes: Tensor
    scales: Tensor
    shape: Shape
    block: Shape
    turned: bool
    dtype: ClassVar[str] = "F32"  # that it is read as

    @property
    def size(self) -> int:
        return self.codes.size + self.scales.size

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of a stored matrix."""
        rows, columns = self.shape[-2:]
        return (columns, rows) if self.turned else (rows, columns)


Stored = Tensor | Quantized | Grouped


def _quantized(raw: Mapping[str, Tensor], name: str, scheme: Scheme) -> Quantized:
    codes, scales = raw[name + scheme.suffix], raw.get(name + scheme.scales)
    stored, block, fitting = scheme.layout(codes.shape)
    if scales is None:
        raise CheckpointError(
            f"Tensor {name + scheme.suffix} is quantised, and there is no {name + scheme.scales}.",
            "A shard was not copied, or the file was written by a program that stores scales under other names.",
            "Compare the files with those of the model's repository.",
        )
    if scales.dtype not in SCALES:
        raise UnsupportedError(
            f"Tensor {name + scheme.scales} has type {scales.dtype}; scales of quantised tensors are {', '.join(SCALES)}.",
            "The file was written by a newer program.",
            "Choose the model's unquantised checkpoint.",
        )
    if scales.shape not in fitting:
        raise CheckpointError(
            f"Tensor {name + scheme.scales} has shape {list(scales.shape)}; {name + scheme.suffix} asks for {list(fitting[0])}.",
            "config.json and the weights are of different checkpoints, or the blocks are not those it says.",
            "Fetch all files again from the same commit.",
        )
    shape = (*stored[:-2], stored[-1], stored[-2]) if scheme.turned else stored
    return Quantized(codes, scales, shape, block, scheme.turned)


def logical(raw: Mapping[str, Tensor], scheme: Scheme | Grouping | None) -> dict[str, Stored]:
    """The tensors of a checkpoint under the names and shapes of an unquantised one.

    Raises CheckpointError where scales are missing or misshapen, UnsupportedError where they are of no known type.
    """
    if scheme is None:
        return dict(raw)
    if isinstance(scheme, Grouping):
        return {**grouped(raw, scheme)}
    coded = [
        name.removesuffix(scheme.suffix)
        for name, tensor in raw.items()
        if tensor.dtype == scheme.dtype and name.endswith(scheme.suffix) and len(tensor.shape) >= scheme.rank
    ]
    parts = {name + suffix for name in coded for suffix in (scheme.suffix, scheme.scales)}
    plain: dict[str, Stored] = {n: t for n, t in raw.items() if n not in parts and not n.endswith(scheme.unread)}
    return plain | {name: _quantized(raw, name, scheme) for name in coded}


def read_logical(folder: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint folder, as its config.json says that they are stored, and in place of some what a step has tuned."""
    scheme = scheme_of(json.loads((folder / "config.json").read_text("utf-8")))
    tuned = folder / TUNED
    return logical(read_checkpoint(folder), scheme) | (read_header(tuned) if tuned.exists() else {})
