"""Weights that a checkpoint stores as integers in groups along the input, as GPTQ, AWQ and compressed-tensors write them.

Standard library only: the host describes checkpoints, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.groupings import Form, Grouping, Shape
from onnxmake.model.safetensors import Tensor

FLOATS = ("F16", "BF16", "F32")  # of scales


@dataclass(frozen=True)
class Matrix:
    """A matrix of `shape` in a file."""

    form: Form
    tensor: Tensor
    shape: Shape


@dataclass(frozen=True)
class Grouped:
    """A weight [N, K] of values (code - zero point) * scale: of K, each `group` share the last two, or those of one number in
    `index`. Without `zeros`, all are 2^(bits - 1)."""

    name: str
    shape: Shape
    bits: int
    group: int
    codes: Matrix
    scales: Matrix
    zeros: Matrix | None
    index: Tensor | None
    dtype: ClassVar[str] = "F32"  # that it is read as
    turned: ClassVar[bool] = False

    @property
    def matrix(self) -> Shape:
        return self.shape

    @property
    def size(self) -> int:
        parts = (self.codes, self.scales, self.zeros)
        return sum(part.tensor.size for part in parts if part) + (self.index.size if self.index else 0)


def _matrix(raw: Mapping[str, Tensor], name: str, form: Form, types: tuple[str, ...], shape: Shape) -> Matrix:
    """Raises CheckpointError where the tensor is missing or misshapen, UnsupportedError where it is of another type."""
    tensor = raw.get(name + form.suffix)
    if tensor is None:
        raise CheckpointError(
            f"Tensor {name}.weight is quantised, and there is no {name}{form.suffix}.",
            "A shard was not copied, or the file was written by a program that stores it under another name.",
            "Compare the files with those of the model's repository.",
        )
    if tensor.dtype == "I8" and form.along:  # signed, a number each
        form = replace(form, along="", add=2 ** (form.bits - 1))
    if tensor.dtype not in types:
        raise UnsupportedError(
            f"Tensor {name}{form.suffix} has type {tensor.dtype}; known are {', '.join(types)}.",
            "The file was written by a newer program.",
            "Choose the model's unquantised checkpoint.",
        )
    if tensor.shape != form.stored(*shape):
        raise CheckpointError(
            f"Tensor {name}{form.suffix} has shape {list(tensor.shape)}; the codes ask for {list(form.stored(*shape))}.",
            "config.json and the weights are of different checkpoints, or groups or bits are not those it says.",
            "Fetch all files again from the same commit.",
        )
    return Matrix(form, tensor, shape)


def _grouped(raw: Mapping[str, Tensor], name: str, how: Grouping) -> Grouped:
    codes = raw[name + how.codes.suffix]
    if len(codes.shape) != 2:
        raise UnsupportedError(
            f"Tensor {name}{how.codes.suffix} has shape {list(codes.shape)}.",
            "Only matrices of codes are known.",
            "Choose the model's unquantised checkpoint.",
        )
    shape = how.codes.shape(codes.shape)
    group = min(how.group or shape[1], shape[1])
    few = shape[0], -(-shape[1] // max(group, 1))
    index, zeros = raw.get(name + how.index), None
    if index is not None and (index.dtype != "I32" or index.shape != shape[1:]):
        raise CheckpointError(
            f"Tensor {name}{how.index} has type {index.dtype} and shape {list(index.shape)}; the codes ask for I32 and {[*shape[1:]]}.",
            "config.json and the weights are of different checkpoints, or bits are not those it says.",
            "Fetch all files again from the same commit.",
        )
    if how.asymmetric or name + how.zeros.suffix in raw:
        zeros = _matrix(raw, name, how.zeros, ("I32", "I8"), few)
    return Grouped(
        f"{name}.weight",
        shape,
        how.bits,
        group,
        _matrix(raw, name, how.codes, (how.codes.dtype,), shape),
        _matrix(raw, name, how.scales, FLOATS, few),
        zeros,
        index,
    )


def _is_zero(tensor: Tensor) -> bool:
    with open(tensor.path, "rb") as file:
        file.seek(tensor.offset)
        return not any(file.read(tensor.size))


def grouped(raw: Mapping[str, Tensor], how: Grouping) -> dict[str, Tensor | Grouped]:
    """The tensors of a checkpoint under the names of an unquantised one; a model's own bias of nothing but zeros would be
    missed, and said to be missing.

    Raises CheckpointError where a tensor is missing or misshapen, UnsupportedError where one is of no known type.
    """
    suffix = how.codes.suffix
    coded = [n.removesuffix(suffix) for n, t in raw.items() if n.endswith(suffix) and t.dtype == how.codes.dtype]
    parts = {name + end for name in coded for end in (suffix, how.scales.suffix, how.zeros.suffix, how.index)}
    if how.padded:
        parts |= {bias for name in coded if (bias := f"{name}.bias") in raw and _is_zero(raw[bias])}
    plain = {n: t for n, t in raw.items() if n not in parts and not n.endswith(how.unread or ("\0",))}
    return plain | {f"{name}.weight": _grouped(raw, name, how) for name in coded}
