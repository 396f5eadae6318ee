"""Files of a dataset on the hub, as the rows or the text that a step reads: JSON lines of all rows, or the texts one after the other.

{"repo", "revision", "file", "out"} -> null, and what the files hold in the file `out`. `file`, a path in the repository, may name several
in a folder by "*". Runs in the environment data, with a network.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from onnxmake.errors import SourceError, TargetError
from onnxmake.model import rows
from onnxmake.model.hub import fetched
from onnxmake.model.serve import serve

COLUMNS = ".parquet"
MANY = 1024  # rows in memory


def _columns(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file. Only strings are read: of other columns, among them pictures and sound, rows tell that they are there."""
    import pyarrow
    from pyarrow import parquet, types

    def is_text(kind: pyarrow.DataType) -> bool:
        inner = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(inner) or types.is_large_string(inner)

    with parquet.ParquetFile(file) as table:
        schema = table.schema_arrow
        told = dict.fromkeys(schema.names)
        for batch in table.iter_batches(MANY, columns=[field.name for field in schema if is_text(field.type)]):
            yield from (told | row for row in batch.to_pylist())


def _rows(file: Path, name: str) -> Iterator[dict[str, Any]]:
    """Raises SourceError for a file that is damaged."""
    try:
        if file.suffix == COLUMNS:
            yield from _columns(file)
        else:
            yield from (row for _, row in rows.rows(file, name))
    except (TargetError, ValueError, OSError) as error:
        if getattr(error, "errno", None):
            raise
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> SourceError:
    fact = error.fact if isinstance(error, TargetError) else f"{name} holds no rows: {error}."
    return SourceError(
        fact,
        "It is of another form than its name says, or its owners damaged it.",
        "Choose another file, or save its rows as .jsonl beside the target and name that.",
    )


def write(folder: Path, names: list[str], out: TextIO) -> None:
    """What the files hold. Raises SourceError."""
    for number, name in enumerate(names):
        if rows.form_of(name) in (*rows.READERS, COLUMNS):
            out.writelines(json.dumps(row) + "\n" for row in _rows(folder / name, name))
            continue
        try:
            out.writelines([rows.BETWEEN] if number else [])
            out.writelines(rows.texts(folder / name, "", name))
        except TargetError as error:
            raise _unreadable(name, error) from error


def save(repo: str, revision: str, file: str, out: str) -> None:
    """Fetch the files, and write what they hold. Raises SourceError."""
    folder, names = fetched(repo, revision, [file], "dataset")
    part = Path(f"{out}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as text:
            write(Path(folder), sorted(names), text)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    serve(lambda action: save(**action))
