"""A text, or the rows of a JSONL file, as what a model is tuned on: windows of tokens that follow one another."""

import json
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnxmake.errors import TargetError
from onnxmake.model.nearest import nearest
from onnxmake.model.texts import tokenizer_of

TEXT = "{text}"  # of a row, unless a template says otherwise


def windows(checkpoint: Path, data: Path, template: str, tokens: int) -> np.ndarray:
    """int64 [N, tokens]: what `data` holds, one text after the other, each ended as the model ends what it writes.

    Rows of a .jsonl file become texts by `template`, whose "{name}" stands for a column; a last window that is not full is left out.
    Raises TargetError for data that holds less than one, or rows of another form.
    """
    texts = _rows(data, template or TEXT) if data.suffix == ".jsonl" else [data.read_text("utf-8")]
    tokenizer, end = tokenizer_of(checkpoint), _end(checkpoint)
    if data.suffix != ".jsonl" and template:
        raise TargetError(
            f"text_template is given, and {data.name} has no columns.",
            "A plain text is read as it is.",
            "Name a .jsonl file, or remove text_template.",
        )
    ids = [token for text in texts for token in (*tokenizer.encode(text).ids, *end)]
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


def _rows(data: Path, template: str) -> Iterator[str]:
    try:
        columns = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise TargetError(
            f"text_template = {template!r} is none: {error}.",
            "Braces name columns.",
            "Write {{ for a brace of the text.",
        ) from None
    for number, line in enumerate(data.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise TargetError(
                f"{data.name}, line {number}: no JSON object: {error}.",
                "Each line of a .jsonl file is one row.",
                "Mend that line.",
            ) from None
        for name in columns:
            if not isinstance(row.get(name), str):
                what = f"column {name!r} is no string" if name in row else f"there is no column {name!r}"
                raise TargetError(
                    f"{data.name}, line {number}: {what}.",
                    f"text_template is {template!r}.",
                    nearest(name, row) if name not in row else "Write a string there.",
                )
        yield template.format_map(row)
