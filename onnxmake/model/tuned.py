"""What tuning leaves for later steps, as a safetensors file of float32 beside the checkpoint: weights that stand in place of its own, or
the factors of an adapter."""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model.prequantized import TUNED, Stored, read_logical
from onnxmake.model.reader import Reader
from onnxmake.model.safetensors import header_of, read_header

SUFFIX = ".lora"  # of an adapter's file
DOWN, UP = ".lora_A", ".lora_B"  # of its tensors


@dataclass(frozen=True)
class Factors:
    """A change of low rank to a weight [N, K]: it becomes weight + up @ down, and, where there is a magnitude, each of its rows
    then gets that length (DoRA, arXiv:2402.09353, equation 5)."""

    down: np.ndarray  # [rank, K]
    up: np.ndarray  # [N, rank]; what scales the product is in it
    magnitude: np.ndarray | None = None  # [N]

    def merged(self, weight: np.ndarray) -> np.ndarray:
        """float32 [N, K]."""
        changed = weight + self.up @ self.down
        if self.magnitude is None:
            return changed
        return changed * (self.magnitude / np.linalg.norm(changed, axis=1))[:, None]


def weight_of(module: str) -> str:
    """The tensor of a linear module that its factors change."""
    return f"{module}.weight"


def save(checkpoint: Path, out: Path, adapter: str, factors: Mapping[str, Factors]) -> None:
    """Write the factors of some modules as the adapter of that name or, if it is empty, the checkpoint's weights with them merged in.

    Raises CheckpointError where they are not of this checkpoint, UnsupportedError for an adapter that is no sum (DoRA).
    """
    tensors = read_logical(checkpoint)
    for module, found in factors.items():
        _check(tensors, module, found)
    if adapter:
        if any(found.magnitude is not None for found in factors.values()):
            raise UnsupportedError(
                "The adapter is a DoRA, whose changes are no sum that a graph could add.",
                "It scales the rows of weights, too.",
                "Merge it: leave out adapter = ...",
            )
        arrays = {m + suffix: array for m, f in factors.items() for suffix, array in ((DOWN, f.down), (UP, f.up))}
        _write(out / f"{adapter}{SUFFIX}", {name: a.shape for name, a in arrays.items()}, arrays.values())
        return
    before = read_header(checkpoint / TUNED) if (checkpoint / TUNED).exists() else {}
    changed = {weight_of(module): found for module, found in factors.items()}
    names = sorted({*before, *changed})
    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(tensors, ahead)
        weights = ((name, whole(reader, name)) for name in names)
        merged = (changed[name].merged(weight) if name in changed else weight for name, weight in weights)
        _write(out / TUNED, {name: tensors[name].shape for name in names}, merged)


def adapter(file: Path) -> dict[str, Factors]:
    """Module -> factors of an adapter's file. Raises CheckpointError."""
    tensors = read_header(file)
    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(tensors, ahead)
        modules = sorted(name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN))
        return {m: Factors(*(whole(reader, m + suffix) for suffix in (DOWN, UP))) for m in modules}


def whole(reader: Reader, name: str) -> np.ndarray:
    """A tensor in float32."""
    rows = [block.astype(np.float32) for block in reader.rows(name)]
    return np.concatenate(rows).reshape(reader.tensors[name].shape)


def _check(tensors: Mapping[str, Stored], module: str, found: Factors) -> None:
    weight = tensors.get(weight_of(module))
    shape = (found.up.shape[0], found.down.shape[1])
    if weight is None or tuple(weight.shape) != shape or found.up.shape[1] != found.down.shape[0]:
        has = f"has the shape {list(weight.shape)}" if weight else "is not in the checkpoint"
        raise CheckpointError(
            f"The adapter changes {module} by factors {list(found.down.shape)} and {list(found.up.shape)}; its weight {has}.",
            "The adapter was made for another model.",
            "Compare it with the target's source.",
        )
    if not all(np.isfinite(part).all() for part in (found.down, found.up)):
        raise CheckpointError(
            f"The adapter of {module} holds NaN or infinity.",
            "Its training diverged.",
            "Lower learning_rate, or choose another adapter.",
        )


def _write(file: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[np.ndarray]) -> None:
    """The arrays in the order of `shapes`, one at a time."""
    with open(file, "wb") as out:
        out.write(header_of({name: ("F32", shape) for name, shape in shapes.items()}))
        for (name, shape), array in zip(shapes.items(), arrays, strict=True):
            assert array.size == math.prod(shape), name
            out.write(np.ascontiguousarray(array, np.float32).data)
