"""JSON with comments, as people keep workflows: // to the end of the line, /* to the end */."""

import json
import re
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.errors import TargetError

TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL
)  # a string is one token: what it holds is no comment


def without_comments(text: str) -> str:
    """The text with blanks for comments, so that every character stays at its line and column."""
    return TOKEN.sub(lambda m: m[0] if m[0].startswith('"') else re.sub(r"[^\n]", " ", m[0]), text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return found


def read(file: Path) -> dict[str, Any]:
    """The object in the file. Raises TargetError."""
    where = paths.shown(file)
    try:
        found = json.loads(without_comments(file.read_text("utf-8-sig")), object_pairs_hook=_once)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # half a pair of surrogates is no text
    except OSError as error:
        raise TargetError(
            f"{where} cannot be read: {error.strerror}.", "", "Correct its permissions, or remove it."
        ) from None
    except RecursionError:
        raise TargetError(f"{where} is nested too deeply.", "It is no workflow.", "Name the workflow's file.") from None
    except ValueError as error:
        raise TargetError(
            f"{where} is not JSON: {error}.",
            "A quote, comma or bracket is missing or too many there.",
            "Mend that line.",
        ) from None
    if not isinstance(found, dict):
        raise TargetError(f"{where} is not a JSON object.", "It is no workflow.", "Name the workflow's file.")
    return found
