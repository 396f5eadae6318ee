"""A text as what a model is fed: windows of tokens for one that continues it, batches of its lines for one that reads them."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from onnxmake.errors import CheckpointError, TargetError

BATCH = 16  # lines that are padded to the longest of them


def tokenizer_of(checkpoint: Path) -> Tokenizer:
    """Raises CheckpointError where the checkpoint has no tokenizer.json."""
    file = checkpoint / "tokenizer.json"
    if not file.exists():
        raise CheckpointError(
            "tokenizer.json is missing: no text can be read.",
            "The checkpoint has a tokenizer of another form.",
            "Convert it: Transformers loads and saves it as tokenizer.json.",
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _too_short(count: int, wanted: int) -> TargetError:
    return TargetError(
        f"The text has {count:,} tokens, and the check wants {wanted:,}.",
        "[check] asks for more than its text holds.",
        f"Name a longer text, or write max_tokens = {count} or less, and no larger window.",
    )


def windows(
    tokenizer: Tokenizer, text: str, window: int, stride: int, max_tokens: int, whole: bool
) -> tuple[np.ndarray, int]:
    """Rows of `window` tokens [N, window] int64, `stride` apart, and the place in a row of the first token that counts: the last
    `stride` do, as far as something comes before them.

    What the tokenizer puts before a text stands before each row, and is none of the `max_tokens` that are read at most.
    `whole`: a shorter text is taken as it is. Raises TargetError for one that is too short.
    """
    probe = tokenizer.encode("a")
    before = [t for t, _ in itertools.takewhile(lambda pair: pair[1], zip(probe.ids, probe.special_tokens_mask))]
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    own = window - len(before)
    if len(tokens) < (own if whole else max(own, max_tokens)):
        raise _too_short(len(tokens), own if whole else max(own, max_tokens))
    tokens, step = tokens[:max_tokens], min(stride, own)
    starts = range(0, len(tokens) - own + 1, step)
    rows = np.array([before + tokens[start : start + own] for start in starts], np.int64)
    return rows, max(1, len(before), window - stride)


def window_feed(row: np.ndarray) -> dict[str, np.ndarray]:
    """A decoder's inputs for one window [window] of tokens."""
    return {
        "input_ids": row[None],
        "attention_mask": np.ones_like(row[None]),
        "position_ids": np.arange(len(row))[None],
    }


def batches(
    tokenizer: Tokenizer,
    text: str,
    window: int,
    max_tokens: int,
    padding: int,
    whole: bool,
    fixed: tuple[int | None, int | None] = (None, None),
) -> list[dict[str, np.ndarray]]:
    """An encoder's inputs for the text's lines, BATCH of them at a time, filled up with the token `padding`; lines of more than
    `window` tokens are cut, and there are as many lines as have `max_tokens`.

    `whole`: a shorter text is taken as it is. `fixed`: lines of each batch and tokens of each line, where the model takes no others.
    Raises TargetError for a text that is too short.
    """
    size, length = fixed[0] or BATCH, fixed[1]
    tokenizer.enable_truncation(min(window, length or window))
    lines = tokenizer.encode_batch([line.strip() for line in text.splitlines() if line.strip()])
    reached = list(itertools.accumulate(len(line.ids) for line in lines))
    if not reached or (reached[-1] < max_tokens and not whole):
        raise _too_short(reached[-1] if reached else 0, max_tokens)
    lines = lines[: sum(count < max_tokens for count in reached) + 1]
    groups = [lines[start : start + size] for start in range(0, len(lines), size)]
    if fixed[0] is not None:  # one that is not full could not be run
        groups = [group for group in groups if len(group) == size]
    if not groups:
        raise TargetError(
            f"The text has {len(lines)} lines, and the model takes {size} at a time.",
            "fix_shapes gave its batch that size.",
            "Name a longer text under [check].",
        )
    return [_padded(group, padding, length) for group in groups]


def _padded(lines: Sequence, padding: int, length: int | None) -> dict[str, np.ndarray]:
    longest = length or max(len(line.ids) for line in lines)

    def filled(field: str, value: int) -> np.ndarray:
        return np.array([(row := getattr(line, field)) + [value] * (longest - len(row)) for line in lines], np.int64)

    return {
        "input_ids": filled("ids", padding),
        "attention_mask": filled("attention_mask", 0),
        "token_type_ids": filled("type_ids", 0),
    }
