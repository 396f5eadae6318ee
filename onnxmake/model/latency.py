"""Measure a model that ONNX Runtime runs by itself: load, seconds for one input. Texts of given lengths, or one picture or sound."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxmake.model.session import TYPES, open_session

PICTURE = 224  # pixels, where the model takes any size
CHOICES = 4  # answers to choose from


def setting(folder: str, name: str, default: int) -> int:
    """A number of the model's own configuration, or of its text tower's."""
    config = json.loads(Path(folder, "config.json").read_text("utf-8"))
    return config.get(name) or config.get("text_config", {}).get(name) or default


def inputs(session: Any, tokens: int, vocabulary: int, seed: int = 0) -> dict[str, np.ndarray]:
    """One input: a text of `tokens` random tokens, or random numbers in the shape of a picture or sound."""
    random, sizes, feed = np.random.default_rng(seed), {"batch": 1, "choices": CHOICES, "sequence": tokens}, {}
    for i in session.get_inputs():
        shape = [d if isinstance(d, int) else sizes.get(d, PICTURE) for d in i.shape]
        values = {"input_ids": random.integers(0, vocabulary, shape), "attention_mask": np.ones(shape)}
        blank = np.zeros(shape) if TYPES[i.type].startswith("int") else random.standard_normal(shape)
        feed[i.name] = values.get(i.name, blank).astype(TYPES[i.type])
    return feed


def fixed_sizes(session: Any) -> list[int | None]:
    """Batch and tokens of input_ids, where the model takes no other."""
    shape = next((i.shape for i in session.get_inputs() if i.name == "input_ids"), [None, None])
    return [size if isinstance(size, int) else None for size in shape]


def runs(
    folder: str, device: str, prompt_tokens: Sequence[int], repeats: int
) -> tuple[float, list[tuple[int, list[float]]]]:
    """Seconds to load, and for each length (1 where the model reads no text) the seconds of `repeats` runs."""
    started = time.perf_counter()
    session = open_session(Path(folder, "model.onnx"), device)
    loaded = time.perf_counter() - started
    text = any(i.name == "input_ids" for i in session.get_inputs())
    vocabulary, longest = setting(folder, "vocab_size", 1000), setting(folder, "max_position_embeddings", 512)
    timed, only = [], fixed_sizes(session)[-1]
    for count in dict.fromkeys(only or min(count, longest) for count in prompt_tokens) if text else [1]:
        feed, seconds = inputs(session, count, vocabulary), []
        for _ in range(repeats + 1):  # the first warms up
            started = time.perf_counter()
            session.run(None, feed)
            seconds.append(time.perf_counter() - started)
        timed.append((count, seconds[1:]))
    return loaded, timed
