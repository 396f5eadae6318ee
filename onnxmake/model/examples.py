"""Texts, or rows of a file, as what a model is tuned on: windows of tokens that follow one another."""

import json
from array import array
from pathlib import Path

import numpy as np

from onnxmake.errors import TargetError
from onnxmake.model.rows import texts
from onnxmake.model.texts import tokenizer_of


def windows(checkpoint: Path, data: Path, template: str, tokens: int, most: int | None = None) -> np.ndarray:
    """int64 [N, tokens]: what `data` holds, one text after the other, each ended as the model ends what it writes.

    Rows become texts by `template` (rows.py), and those without a word are left out; so is a last window that is not full,
    and what comes behind the first `most` windows.
    Raises TargetError for data that holds less than one, or rows of another form.
    """
    tokenizer, end = tokenizer_of(checkpoint), _end(checkpoint)
    found = (text for text in texts(data, template) if text.strip())
    ids = array("q")
    for text in found:
        ids.extend((*tokenizer.encode(text).ids, *end))
        if most is not None and len(ids) >= most * tokens:
            del ids[most * tokens :]
            break
    count = len(ids) // tokens
    if not count:
        raise TargetError(
            f"The data has {len(ids):,} tokens; one window of it takes {tokens:,}.",
            "The file is empty, or shorter than tokens says.",
            "Name a longer file, or lower tokens.",
        )
    return np.array(ids[: count * tokens], np.int64).reshape(count, tokens)


def _end(checkpoint: Path) -> list[int]:
    """The token that ends a text, if the model has one."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    found = (config.get("text_config") or config).get("eos_token_id")
    return [] if found is None else [found[0] if isinstance(found, list) else found]
