"""Evaluate a built model against the unquantised one: what it expects of a text's next tokens, or what it makes of its lines.

{"model", "graph", "checkpoint", "text", "template", "window", "stride", "max_tokens", "whole"} -> {"metrics", "counted", "of"}.
`graph` is the captured one, `text` a file, `template` of its rows, `whole` says that a shorter text will do. Runs on the CPU, whatever device the model is for;
a window or a batch at a time is in memory.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnxmake.errors import TargetError, UnsupportedError
from onnxmake.model import divergence, latency, rows, similarity, texts
from onnxmake.model.feeds import generates, outputs
from onnxmake.model.serve import serve
from onnxmake.model.session import on_cpu, open_scoring
from onnxmake.model.unquantised import reference_outputs

EXAMPLES = 16  # random pictures or sounds, each with its number as seed
References = Callable[[Iterable[dict[str, np.ndarray]]], Iterator[dict[str, np.ndarray]]]


def _said(figures: Iterable, total: int, what: str) -> Iterator:
    """The figures, with a line every ten seconds on how many of them there are."""
    last = time.monotonic()
    for done, found in enumerate(figures, 1):
        if time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"  {done} of {total} {what}", flush=True)
        yield found


def of_windows(session: Any, references: References, rows: np.ndarray, first: int) -> dict[str, Any]:
    """Of next tokens: of each row [window], those from place `first` on."""

    def compared(reference: dict[str, np.ndarray], row: np.ndarray) -> np.ndarray:
        made = outputs(session, texts.window_feed(row))
        expected, found = (side["logits"][0, first - 1 : -1] for side in (reference, made))
        return divergence.compared(expected, found, row[first:])

    pairs = map(
        compared, references(map(texts.window_feed, rows)), rows
    )  # which keeps no window while it makes the next
    figures = np.concatenate(list(_said(pairs, len(rows), "windows")), 1)
    return {"metrics": divergence.summary(figures), "counted": figures.shape[1], "of": "tokens"}


def of_batches(session: Any, references: References, feeds: list[dict[str, np.ndarray]], of: str) -> dict[str, Any]:
    """Of an encoder's outputs for each of a batch."""

    def compared(reference: dict[str, np.ndarray], feed: dict[str, np.ndarray]) -> tuple[list[float], list[bool]]:
        return similarity.compared(reference, outputs(session, feed), feed.get("attention_mask"))

    found = list(_said(map(compared, references(feeds), feeds), len(feeds), "batches"))
    cosines, same = ([*itertools.chain(*parts)] for parts in zip(*found))
    counted = sum(len(next(iter(feed.values()))) for feed in feeds)
    return {"metrics": similarity.summary(cosines, same), "counted": counted, "of": of}


def _need_window(session: Any, window: int) -> None:
    """Raises UnsupportedError where shapes of a decoder are fixed so that it takes no window of a text at once."""
    takes = {i.name: i.shape for i in session.get_inputs()}
    asked = {"input_ids": (1, window), "attention_mask": (1, window)}
    for name, sizes in asked.items():
        if any(isinstance(fixed, int) and fixed != size for fixed, size in zip(takes.get(name, ()), sizes)):
            raise UnsupportedError(
                f"The model takes {name} of {takes[name]}, and an evaluation gives {list(sizes)}.",
                "fix_shapes gave it these sizes.",
                f"Write window = {takes['input_ids'][1]} under [check], or check a target whose sizes are free.",
            )
    if any(isinstance(i.shape[2], int) for i in session.get_inputs() if i.name.endswith((".key", ".value"))):
        raise UnsupportedError(
            "The model takes a past of one length only, and an evaluation begins without one.",
            "fix_shapes gave it that size.",
            "Check a target whose past is free.",
        )


def _examples(session: Any) -> list[dict[str, np.ndarray]]:
    """Random pictures or sounds, in float32 what the model reads."""
    made = [latency.inputs(session, 1, 1, seed) for seed in range(EXAMPLES)]
    return [{k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in feed.items()} for feed in made]


def evaluate(
    model: str,
    graph: str,
    checkpoint: str,
    text: str,
    template: str,
    window: int,
    stride: int,
    max_tokens: int,
    whole: bool,
) -> dict[str, Any]:
    """The figures of the model in a folder. Raises TargetError, CheckpointError, UnsupportedError, CheckFailed."""
    session, source = on_cpu(open_scoring, Path(model, "model.onnx"), "It cannot be evaluated here."), Path(checkpoint)

    def references(feeds: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        return reference_outputs(Path(graph), source, feeds)

    if not any(i.name == "input_ids" for i in session.get_inputs()):
        return of_batches(session, references, _examples(session), f"random inputs, seeds 0 to {EXAMPLES - 1}")
    longest = latency.setting(checkpoint, "max_position_embeddings", window)
    if window > longest:
        raise TargetError(
            f"window = {window} under [check], and the model reads {longest} tokens.",
            "Its config.json says so in max_position_embeddings.",
            f"Write window = {longest} under [check].",
        )
    tokenizer, written = texts.tokenizer_of(source), rows.joined(Path(text), template, max_tokens + window)
    if generates(session):
        _need_window(session, window)
        found, first = texts.windows(tokenizer, written, window, stride, max_tokens, whole)
        return of_windows(session, references, found, first)
    padding = json.loads((source / "config.json").read_text("utf-8")).get("pad_token_id") or 0
    fixed = latency.fixed_sizes(session)
    feeds = texts.batches(tokenizer, written, window, max_tokens, padding, whole, (fixed[0], fixed[1]))
    return of_batches(session, references, feeds, "lines")


if __name__ == "__main__":
    serve(lambda action: evaluate(**action))
