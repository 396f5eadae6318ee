"""A tokenizer for twins, whose passes may calibrate with a text: each printable ASCII character is a token."""

import json
from pathlib import Path

FIRST, COUNT = 32, 95  # printable ones


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """tokenizer.json of at most `vocabulary` tokens."""
    letters = {chr(FIRST + token): token for token in range(min(COUNT, vocabulary))}
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": letters, "unk_token": "?"}
    content = {"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))
