"""A twin's checkpoint stored anew in groups of integers, as the checkpoint whose twin it is: what repack does, it then does here.

{"folder", "settings": a quantization_config, "names": of tensors, numbers in them as "*", "scales": their type} -> how many
tensors; groups are of 16 at most, as a twin is small.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from onnxmake.errors import UnsupportedError
from onnxmake.model.codes import PLACES, TYPES
from onnxmake.model.grouped import FLOATS
from onnxmake.model.groupings import WORD, Form, Grouping
from onnxmake.model.safetensors import header_of, read_checkpoint
from onnxmake.model.schemes import scheme_of
from onnxmake.model.serve import serve

GROUP = 16
Entry = tuple[str, tuple[int, ...], bytes]  # type and shape in safetensors, data


def _small(settings: Any) -> Any:
    """The same of groups that a twin has several of."""
    if isinstance(settings, list):
        return [_small(entry) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    sizes = {"group_size": GROUP} if (settings.get("group_size") or 0) > GROUP else {}
    return {name: _small(entry) for name, entry in settings.items()} | sizes


def _entry(dtype: str, array: np.ndarray) -> Entry:
    return dtype, array.shape, array.tobytes()


def stored(numbers: np.ndarray, form: Form) -> Entry:
    """uint8 [rows, columns] as they stand in a file."""
    if form.along:
        lines = numbers.T if form.along == "rows" else numbers
        each = WORD // form.bits
        lines = np.pad(lines - np.uint8(form.add), ((0, 0), (0, -lines.shape[1] % each))) & np.uint8(2**form.bits - 1)
        codes = lines.reshape(len(lines), -1, each).astype(np.uint32)
        codes = codes[:, :, np.argsort(PLACES)] if form.interleaved else codes
        words = np.bitwise_or.reduce(codes << (form.bits * np.arange(each, dtype=np.uint32)), 2).view(np.int32)
        found = words.T if form.along == "rows" else words
    else:
        found = (numbers.astype(np.int16) - form.add).astype(np.int8)
    return _entry(form.dtype, found.T if form.turned else found)


def _regrouped(name: str, weight: np.ndarray, how: Grouping, ordered: bool, symmetric: bool, scales: str) -> dict:
    """A weight float32 [N, K], rounded to nearest, as the tensors of the method."""
    rows, width = weight.shape
    group = min(how.group or width, width)
    index = np.arange(width) // group
    if ordered:  # one order for all that read one input
        index = np.random.default_rng(width).permutation(index)
    count, top, middle = index.max() + 1, 2**how.bits - 1, 2 ** (how.bits - 1)
    kept, zeros = np.empty((rows, count), TYPES[scales]), np.full((rows, count), middle, np.uint8)
    for g in range(count):
        high, low = (side.max(1).clip(0) for side in (weight[:, index == g], -weight[:, index == g]))
        step = np.maximum(high, low) / (middle - 1) if symmetric else (high + low) / (top - 1)
        kept[:, g] = np.maximum(step, 2.0**-14)
        if not symmetric:
            zeros[:, g] = np.rint(low / kept[:, g].astype(np.float32)).clip(1, top)
    codes = np.rint(weight / kept.astype(np.float32)[:, index]) + zeros[:, index]
    raw = {how.codes.suffix: stored(codes.clip(0, top).astype(np.uint8), how.codes)}
    raw[how.scales.suffix] = _entry(scales, kept.T if how.scales.turned else kept)
    if how.asymmetric:
        zero_form = how.zeros if how.codes.along else Form(how.zeros.suffix, bits=how.bits, add=middle)
        raw[how.zeros.suffix] = stored(zeros, zero_form)
    if ordered:
        raw[how.index] = _entry("I32", index.astype(np.int32))
    return {name + suffix: entry for suffix, entry in raw.items()}


def regroup(folder: str, settings: dict, names: list[str], scales: str) -> int:
    """Of a checkpoint of one file. Raises UnsupportedError where no tensor bears one of the names."""
    place, settings, count = Path(folder), _small(settings), 0
    how, text = scheme_of({"quantization_config": settings}), json.dumps(settings)
    assert isinstance(how, Grouping)
    ordered = bool(settings.get("desc_act")) or '"actorder": "group"' in text
    symmetric = bool(settings.get("sym")) or not how.asymmetric
    raw: dict[str, Entry] = {}
    for name, tensor in read_checkpoint(place).items():
        data = np.fromfile(tensor.path, np.uint8, tensor.size, offset=tensor.offset)
        each = WORD // how.bits
        whole = len(tensor.shape) == 2 and not any(size % each for size in tensor.shape)
        if re.sub(r"\d+", "*", name) in names and whole and tensor.dtype in FLOATS:
            weight = data.view(TYPES[tensor.dtype]).reshape(tensor.shape).astype(np.float32)
            raw |= _regrouped(name.removesuffix(".weight"), weight, how, ordered, symmetric, scales)
            count += 1
        else:
            raw[name] = tensor.dtype, tensor.shape, data.tobytes()
    if not count:
        raise UnsupportedError(
            f"The twin has no tensor named as those that are quantised: {', '.join(sorted(names)[:3])}.",
            "The checkpoint was saved by other names than Transformers writes today.",
            "Report the model.",
        )
    file = place / "model.safetensors"
    header = header_of({name: (dtype, shape) for name, (dtype, shape, _) in raw.items()})
    file.write_bytes(header + b"".join(data for _, _, data in raw.values()))
    config = json.loads((place / "config.json").read_text("utf-8")) | {"quantization_config": settings}
    (place / "config.json").write_text(json.dumps(config))
    return count


if __name__ == "__main__":
    serve(lambda action: {"count": regroup(**action)})
