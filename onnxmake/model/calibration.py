"""Inputs that a model is calibrated with: windows of a text through the checkpoint's tokenizer, or arrays of a file.

A pass that calibrates has the options `calibration: str = ""`, which names a file beside the target, one of a dataset on the hub or one
that a script makes, `text_template: str = ""` of its rows, `samples: int` and `tokens: int`. Its key holds the file's content, its
process sees src/calibration.txt, .jsonl or .npz and that name as the option; or the script's file among the checkpoint's.
`samples` of 0 are all that the file holds.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.errors import TargetError, UnsupportedError
from onnxmake.model.rows import joined
from onnxmake.model.texts import tokenizer_of

Feed = dict[str, np.ndarray]  # of one sample: name of an input -> its value, the batch being 1


def calibration(
    inputs: Sequence[ir.Value], src: Path, file: str, template: str, samples: int, tokens: int
) -> Iterator[Feed]:
    """`samples` samples for a graph with these inputs, of `file`, with rows or without, in the step's folder `src`.

    Raises TargetError where the file holds fewer or others, UnsupportedError where a text says nothing to the model.
    """
    if file.endswith(".npz"):
        yield from _arrays(inputs, src / file, samples)
        return
    if not any(value.name == "input_ids" for value in inputs):
        raise UnsupportedError(
            f"The model reads {inputs[0].name}, and no text can stand for that.",
            "It is of pictures or sound, for which there is no default.",
            'Write calibration = "FILE.npz", with an array [samples, ...] for each input under its name.',
        )
    for ids in windows(src / "checkpoint", src / file, template, samples, tokens):
        yield text_feed(inputs, ids)


def windows(checkpoint: Path, data: Path, template: str, samples: int, tokens: int) -> np.ndarray:
    """int64 [samples, tokens]: pieces spread evenly over the text, or over those of rows with an empty line between two, each with what
    the tokenizer puts around a text; or the beginnings of rows of input_ids, as long as those are.

    Raises TargetError where the text is too short or the model reads less at once, CheckpointError without a tokenizer.
    """
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    longest = (config.get("text_config") or config).get("max_position_embeddings", tokens)
    if tokens > longest:
        raise TargetError(
            f"tokens = {tokens}, and the model reads {longest} at most.",
            "config.json says so in max_position_embeddings.",
            f"Write tokens = {longest} or less.",
        )
    if data.suffix == ".npz":
        return _rows_of_tokens(data, samples, tokens)
    tokenizer = tokenizer_of(checkpoint)
    tokenizer.enable_truncation(tokens)
    first = tokenizer.encode(joined(data, template, samples * tokens or math.inf))
    pieces = [piece.ids for piece in (first, *first.overflowing) if len(piece.ids) == tokens]
    samples = samples or len(pieces)
    if not len(pieces) >= samples > 0:
        raise _too_short(f"{len(pieces)} samples of {tokens} tokens", samples)
    return np.array([pieces[len(pieces) * i // samples] for i in range(samples)], np.int64)


def _rows_of_tokens(file: Path, samples: int, tokens: int) -> np.ndarray:
    """The first `samples` rows of input_ids, of which `tokens` at most count. Raises TargetError where there are fewer, or none."""
    with np.load(file) as arrays:
        found = arrays.get("input_ids")
    if found is None or found.ndim != 2:
        raise TargetError(
            f"{file.name} holds {'no ' if found is None else ''}input_ids{[] if found is None else list(found.shape)}.",
            "Layers are calibrated on rows of tokens.",
            "Give input_ids as [samples, tokens].",
        )
    if len(found) < samples:
        raise _too_short(f"{len(found)} samples", samples)
    return found[: samples or len(found), :tokens].astype(np.int64)


def text_feed(inputs: Sequence[ir.Value], ids: np.ndarray) -> Feed:
    """One text, for an encoder or for a decoder that has seen nothing before it."""
    count = len(ids)
    known = {"input_ids": [ids], "attention_mask": np.ones((1, count)), "position_ids": [range(count)]}
    sizes = {"batch": 1, "sequence": count, "total": count, "past": 0}

    def zeros(value: ir.Value) -> np.ndarray:
        return np.zeros([d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape])

    return {str(v.name): np.asarray(known.get(v.name, zeros(v)), v.dtype.numpy()) for v in inputs}


def _arrays(inputs: Sequence[ir.Value], file: Path, samples: int) -> Iterator[Feed]:
    """Row after row of the file's arrays."""
    with np.load(file) as arrays:
        rows = {str(v.name): _rows(v, file, arrays) for v in inputs}
    held = min(map(len, rows.values()))
    samples = samples or held
    if held < samples:
        raise _too_short(f"{held} samples", samples)
    for row in range(samples):
        yield {name: array[row : row + 1] for name, array in rows.items()}


def _rows(value: ir.Value, file: Path, arrays: np.lib.npyio.NpzFile) -> np.ndarray:
    """The array for one input, whose first axis counts samples. Raises TargetError where it is missing or misshapen."""
    found, (_, *wanted) = arrays.get(str(value.name)), value.shape
    here = () if found is None else found.shape
    if len(here) != 1 + len(wanted) or any(isinstance(w, int) and w != size for w, size in zip(wanted, here[1:])):
        raise TargetError(
            f"{file.name} holds {'no ' if found is None else ''}{value.name}{list(here) or ''}.",
            "It was made for another model.",
            f"Save {value.name} as [samples, {', '.join(map(str, wanted))}], with numpy.savez.",
        )
    return found.astype(value.dtype.numpy(), copy=False)


def unusable(where: str = "") -> UnsupportedError:
    """The error for data of which the model makes values that are not finite."""
    return UnsupportedError(
        f"The model computes NaN or infinity from the calibration data{where}.",
        "The data is none that the model was made for, or the checkpoint's training diverged.",
        "Look at the data first.",
    )


def _too_short(held: str, wanted: int) -> TargetError:
    return TargetError(
        f"The calibration data holds {held}; {wanted} are asked for.",
        "The file is shorter than samples and tokens say.",
        'Write calibration = "FILE" with more of it, or lower samples or tokens.',
    )
