"""The safetensors format, read by its own arithmetic: an 8-byte little-endian header length, a JSON header.

Then raw row-major data.

Standard library only: the host reads headers too.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmake.errors import CheckpointError

BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
}
MAX_HEADER = 100_000_000
AGAIN = "Fetch the file again; a file that was cut off while copying looks like this."


@dataclass(frozen=True)
class Tensor:
    """Where a tensor's bytes are: `size` bytes at `offset` of `path`."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def header_of(tensors: Mapping[str, tuple[str, Sequence[int]]], room: int = 0) -> bytes:
    """What stands in front of the data of tensors, name -> (type, shape), that follow one another; at least `room` bytes of it."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode().ljust(room - 8)
    return len(text).to_bytes(8, "little") + text


def _tensor(path: Path, start: int, entry: dict) -> Tensor:
    """One entry of a header; `start` is where the data starts. Raises what a malformed entry raises."""
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"malformed entry {entry}")
    return Tensor(path, dtype, tuple(shape), start + begin, end - begin)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises CheckpointError where the header is cut, is no JSON, or contradicts itself or the file's size.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise CheckpointError(
                f"{path.name} has {size:,} bytes and says that its header takes {length:,}.",
                "The file is cut off, or is no safetensors file.",
                AGAIN,
            )
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {name: _tensor(path, 8 + length, entry) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"The header of {path.name} is no safetensors header: {error}.", "The file is damaged.", AGAIN
            ) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in BITS:
            raise CheckpointError(
                f"Tensor {name} in {path.name} has the unknown type {tensor.dtype}.",
                "The file was written by a newer program.",
                "Convert the checkpoint to bfloat16.",
            )
        if tensor.size * 8 != math.prod(tensor.shape) * BITS[tensor.dtype] or tensor.offset + tensor.size > size:
            raise CheckpointError(
                f"Tensor {name} of shape {list(tensor.shape)} and type {tensor.dtype} does not fit its {tensor.size:,} bytes at {tensor.offset:,} of {path.name} "
                f"({size:,} bytes).",
                "The file is cut off, or its header was edited.",
                AGAIN,
            )
    return tensors


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name.

    Of one file or, where there is none, of shards with an index. Raises CheckpointError; pickled checkpoints are
    refused.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.exists():
        return read_header(single)
    if not index.exists():
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"The checkpoint holds {pickled[0]} and no safetensors file.",
                "It was saved as a pickle, which may run code when it is read.",
                "Convert it where you trust it: load it with Transformers and save_pretrained() it, or choose a revision with model.safetensors.",
            )
        raise CheckpointError(
            f"No model.safetensors and no model.safetensors.index.json in {folder}.",
            "The folder is not a Hugging Face checkpoint.",
            "Point the target's source at a folder with config.json and safetensors files.",
        )
    try:
        shards = json.loads(index.read_text("utf-8"))["weight_map"]
        if not all(isinstance(name, str) for name in shards.values()):
            raise ValueError("weight_map does not map names to files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index.name} is no shard index: {error!r}.", "The file is damaged.", AGAIN) from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        if not (folder / name).exists():
            raise CheckpointError(
                f"Shard {name} is missing; {index.name} names it.",
                "The download or copy did not finish.",
                "Fetch the missing shard into the same folder.",
            )
        tensors |= read_header(folder / name)
    if lost := sorted(set(shards) - set(tensors)):
        raise CheckpointError(
            f"Tensor {lost[0]} is in no shard, though {index.name} says {shards[lost[0]]}.",
            "The shards are of different commits.",
            AGAIN,
        )
    return tensors
