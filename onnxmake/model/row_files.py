"""Rows of a script's data as a file that passes read: arrays by input, texts, or the rows themselves."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxmake.errors import TargetError
from onnxmake.model.scripted import Row, array_of, rows
from onnxmake.model.texts import tokenizer_of

PADDABLE = "attention_mask"  # by which a model leaves out what fills a row up


def _texts(row: Row, columns: Sequence[str]) -> list[str]:
    """The row's texts: of these columns, or all of them."""
    return [row[name] for name in columns or row if isinstance(row.get(name), str)]


def _tokens(found: list[Row], o: Any, checkpoint: Path) -> list[Row]:
    """Rows of texts as rows of tokens: each text cut and filled up to `tokens`, or one after the other, cut into rows of as many."""
    tokenizer = tokenizer_of(checkpoint)
    if o.padded:
        tokenizer.enable_truncation(o.tokens)
        tokenizer.enable_padding(length=o.tokens)
        read = tokenizer.encode_batch(
            [tuple(t[:2]) if len(t) > 1 else t[0] for row in found if (t := _texts(row, o.columns))]
        )
        return [{"input_ids": r.ids, "attention_mask": r.attention_mask, "token_type_ids": r.type_ids} for r in read]
    ids = [token for row in found for text in _texts(row, o.columns) for token in tokenizer.encode(text).ids]
    return [{"input_ids": ids[at : at + o.tokens]} for at in range(0, len(ids) - o.tokens + 1, o.tokens)]


def _stacked(name: str, values: list[np.ndarray], padded: bool, script: Path) -> np.ndarray:
    """[samples, ...]; rows of other lengths are filled up with zeros where a mask leaves them out. Raises TargetError."""
    shapes = {value.shape for value in values}
    if len(shapes) > 1 and padded and {value.ndim for value in values} == {1}:
        longest = max(map(len, values))
        values = [np.pad(value, (0, longest - len(value))) for value in values]
    elif len(shapes) > 1:
        raise TargetError(
            f"{script.name}: {name} is of {len(shapes)} shapes, among them {' and '.join(map(str, sorted(shapes)[:2]))}.",
            "Samples of a calibration lie in one array.",
            "Give all the same shape, by padding or cutting them in the script.",
        )
    return np.stack(values)


def _arrays(found: list[Row], script: Path) -> dict[str, np.ndarray]:
    """Name -> [samples, ...] of numbers. Raises TargetError where there is none."""
    names = [
        name
        for name, value in found[0].items()
        if array_of(value).dtype.kind in "biuf" and all(name in row for row in found)
    ]
    if not names:
        raise TargetError(
            f"{script.name}: its data has no numbers, but {', '.join(found[0])}.",
            "An .npz file holds arrays by the names of inputs.",
            'Let it give arrays, or write output = "NAME.txt" or "NAME.jsonl".',
        )
    return {name: _stacked(name, [array_of(row[name]) for row in found], PADDABLE in names, script) for name in names}


def save(o: Any, script: Path, checkpoint: Path, file: Path) -> int:
    """Write the script's data; returns how many rows. Raises TargetError, StepFailed."""
    found = [*islice(rows(o, script, checkpoint), o.samples or None)]
    if file.suffix == ".npz" and found and _texts(found[0], o.columns):
        found = _tokens(found, o, checkpoint)
    texts = [" ".join(_texts(row, o.columns)) for row in found] if file.suffix == ".txt" else []
    if not found or (file.suffix == ".txt" and not any(texts)):
        raise TargetError(
            f"{script.name}: its data has no {'texts' if found else 'samples'}.",
            "The function gives nothing, columns name none of its own, or there are fewer tokens than one row has.",
            "Look at what it reads.",
        )
    if file.suffix == ".npz":
        np.savez(file, **_arrays(found, script))  # type: ignore[arg-type]
    elif file.suffix == ".txt":
        file.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    else:
        plain = ({name: value for name, value in row.items() if isinstance(value, str | int | float)} for row in found)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain), "utf-8")
    return len(found)
