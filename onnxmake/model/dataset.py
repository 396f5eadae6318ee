"""A file of a dataset on the hub as one text: of rows, the column `text`, with an empty line between two.

{"repo", "revision", "file", "out"} -> null, and the text in the file `out`. Runs in the environment data, with a network.
"""

import json
from collections.abc import Callable
from pathlib import Path

from onnxmake.errors import SourceError
from onnxmake.model.hub import fetch
from onnxmake.model.serve import serve

COLUMN = "text"


def _plain(file: Path) -> list[str]:
    return [file.read_text("utf-8")]


def _lines(file: Path) -> list[str]:
    return [json.loads(line)[COLUMN] for line in file.read_text("utf-8").splitlines() if line.strip()]


def _columns(file: Path) -> list[str]:
    from pyarrow import parquet

    return parquet.read_table(file, columns=[COLUMN])[COLUMN].to_pylist()


READERS: dict[str, Callable[[Path], list[str]]] = {
    ".txt": _plain,
    ".md": _plain,
    ".jsonl": _lines,
    ".parquet": _columns,
}


def text_of(file: Path) -> str:
    """Raises SourceError for a file that holds none."""
    try:
        return "\n\n".join(READERS[file.suffix](file))
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{file.name} holds no column {COLUMN} of strings: {type(error).__name__}: {error}.",
            "Its rows are of another form, or the file is damaged.",
            "Choose another dataset, or write its text into a file beside the target.",
        ) from error


def save(repo: str, revision: str, file: str, out: str) -> None:
    """Fetch the file, and write its text. Raises SourceError."""
    text = text_of(Path(fetch(repo, revision, [file], "dataset"), file))
    part = Path(f"{out}.part")
    part.write_text(text, "utf-8")
    part.replace(out)


if __name__ == "__main__":
    serve(lambda action: save(**action))
