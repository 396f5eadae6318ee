"""Texts of a file: of one with rows, each by a template; of any other, the whole. Standard library only: the host reads a first row, too."""

import csv
import gzip
import json
import string
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from onnxmake.errors import TargetError
from onnxmake.model.nearest import nearest

TEXT = "{text}"  # of a row, unless a template says otherwise
BETWEEN = "\n\n"  # of two texts that are read as one
LONGEST = 64  # characters of a token, on average: of rows, no more are read than have the tokens that are wanted
PACKED = ".gz"
Rows = Iterator[tuple[str, Any]]  # where a row stands, and the row, which may be no object


def _no_row(where: str, error: Exception | str) -> TargetError:
    return TargetError(
        f"{where}: no JSON object: {error}.",
        "Each line of a .jsonl file is one row; a .json file is a list of them, or has lines, too.",
        "Mend that line.",
    )


def _lines(file: TextIO, said: str) -> Rows:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield f"{said}, line {number}", json.loads(line)
            except ValueError as error:
                raise _no_row(f"{said}, line {number}", error) from None


def _list(file: TextIO, said: str) -> Rows:
    """One list of objects; many a file of this name holds lines, too."""
    try:
        whole = json.load(file)
    except json.JSONDecodeError:
        file.seek(0)
        yield from _lines(file, said)
        return
    for number, row in enumerate(whole if isinstance(whole, list) else [whole], 1):
        yield f"{said}, row {number}", row


def _table(file: TextIO, said: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # a text is longer than csv expects
    for number, row in enumerate(csv.DictReader(file), 1):
        yield f"{said}, row {number}", row


READERS: dict[str, Callable[[TextIO, str], Rows]] = {".jsonl": _lines, ".json": _list, ".csv": _table}


def form_of(name: str) -> str:
    """How the name ends, but for its packing."""
    return Path(name.removesuffix(PACKED)).suffix


def _open(file: Path) -> TextIO:
    opener: Callable[..., TextIO] = gzip.open if file.suffix == PACKED else open  # type: ignore[assignment]
    return opener(file, "rt", encoding="utf-8", newline="" if form_of(file.name) == ".csv" else None)


def rows(file: Path, said: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and the row: column -> value. `said`: how messages name the file. Raises TargetError."""
    said = said or file.name
    try:
        with _open(file) as text:
            for where, row in READERS[form_of(file.name)](text, said):
                if not isinstance(row, dict):
                    raise _no_row(where, "not an object")
                yield where, row
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _unreadable(said, error) from error


def parts(template: str) -> list[tuple[str, str | None]]:
    """What stands before each column, and its name; None behind the last. Raises TargetError."""
    try:
        found = [*string.Formatter().parse(template)]
        if wrong := [name for _, name, form, conversion in found if form or conversion]:
            raise ValueError(f"{{{wrong[0]}}} is not the name of a column alone")
    except ValueError as error:
        raise TargetError(
            f"text_template = {template!r} is none: {error}.",
            "Braces name columns.",
            "Write {{ for a brace of the text.",
        ) from None
    return [(literal, name) for literal, name, _, _ in found]


def filled(pieces: list[tuple[str, str | None]], row: Mapping[str, Any], where: str) -> str:
    """The row's text. Raises TargetError where it lacks a column, or holds no string there."""
    for _, name in pieces:
        if name is not None and not isinstance(row.get(name), str):
            what = f"column {name!r} is no string" if name in row else f"there is no column {name!r}"
            template = "".join(text + (f"{{{column}}}" if column is not None else "") for text, column in pieces)
            raise TargetError(
                f"{where}: {what}.",
                f"text_template is {template!r}.",
                "Write a string there, or name another column." if name in row else nearest(name, map(str, row)),
            )
    return "".join(text + (row[name] if name is not None else "") for text, name in pieces)


def texts(file: Path, template: str, said: str = "") -> Iterator[str]:
    """Rows become texts by `template`, whose "{name}" stands for a column; without one, of the column `text`. Raises TargetError."""
    said = said or file.name
    if form_of(file.name) in READERS:
        pieces = parts(template or TEXT)
        yield from (filled(pieces, row, where) for where, row in rows(file, said))
        return
    if template:
        raise TargetError(
            f"text_template is given, and {said} has no columns.",
            "A plain text is read as it is.",
            f"Name a {', '.join(READERS)} file, or remove text_template.",
        )
    try:
        with _open(file) as text:
            yield text.read()
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _unreadable(said, error) from error


def joined(file: Path, template: str, tokens: float) -> str:
    """The texts with an empty line between two; of rows, as many as have that many tokens for certain. Raises TargetError."""
    found, length = [], 0
    for text in texts(file, template):
        found.append(text)
        length += len(text)
        if length > LONGEST * tokens:
            break
    return BETWEEN.join(found)


def _unreadable(said: str, error: Exception) -> TargetError:
    return TargetError(
        f"{said} cannot be read as text: {error}.",
        "It is damaged, or of another form or encoding than UTF-8; .parquet is read of datasets on the hub only.",
        f"Save it as .txt, {', '.join(READERS)}, in UTF-8.",
    )
