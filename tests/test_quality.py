"""The embedded model: trained well enough to measure with, the same text as Transformers, and int4 close to float32."""

import functools
import math
import sys

import numpy as np
import onnxruntime_genai as og
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from onnxmake.build import paths
from onnxmake.model.session import open_scoring

sys.path.append(str(paths.ROOT / "benchmarks"))
import quality  # noqa: E402

TINY = paths.TARGETS / "tiny"
WINDOW = 512
PROMPTS = ("import os\n", "def main(", "class Error(Exception):\n    ")


@functools.cache
def tokens() -> np.ndarray:
    """The held-out text as rows of WINDOW tokens."""
    ids = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode((TINY / "heldout.txt").read_text()).ids
    return np.array(ids[: len(ids) // WINDOW * WINDOW], np.int64).reshape(-1, WINDOW)


def perplexity(folder, rows: np.ndarray) -> float:
    """exp of the mean next-token loss over windows."""
    session = open_scoring(folder / "model.onnx")
    shapes = {i.name: i.shape for i in session.get_inputs()}
    empty = {n: np.zeros((1, s[1], 0, s[3]), np.float32) for n, s in shapes.items() if n.startswith("past")}
    loss = 0.0
    for row in rows:
        logits = session.run(
            ["logits"], {"input_ids": row[None], "attention_mask": np.ones((1, WINDOW), np.int64), **empty}
        )[0][0, :-1].astype(np.float64)
        peak = logits.max(-1)
        loss += float(
            np.mean(peak + np.log(np.exp(logits - peak[:, None]).sum(-1)) - logits[np.arange(WINDOW - 1), row[1:]])
        )
    return math.exp(loss / len(rows))


@pytest.fixture(scope="module")
def full(built) -> float:
    return perplexity(built.dist("tiny-fp32-cpu"), tokens()[::4])


def test_the_model_is_trained(full):
    assert full < 16


@pytest.mark.parametrize(("target", "rise"), [("tiny-int4-cpu", 0.02), ("tiny-int8-cpu", 0.002)])
def test_quantised_perplexity_stays_near_float32(built, full, target, rise):
    assert perplexity(built.dist(target), tokens()[::4]) < full * (1 + rise)


def test_searched_grids_are_nearer_to_float32_than_rounding_to_nearest(built):
    file, methods = (
        built.dist("tiny-fp32-cpu") / "model.onnx",
        {n: quality.METHODS[n] for n in ("rtn", "kquant", "hqq")},
    )
    found = {name: d for name, _, d in quality.measured(file, methods, (4, 32, False), quality.tokens(1))}
    assert found["float32"] == 0 < max(found["kquant"], found["hqq"]) < 0.95 * found["rtn"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_transformers_token_for_token(built, prompt):
    model = og.Model(str(built.dist("tiny-fp32-cpu")))
    tokenizer = og.Tokenizer(model)
    ids = tokenizer.encode(prompt)
    assert list(ids) == Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(prompt).ids
    params = og.GeneratorParams(model)
    params.set_search_options(
        max_length=len(ids) + 64, min_length=len(ids) + 64, do_sample=False, repetition_penalty=1.0
    )
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    reference = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    expected = reference.generate(
        torch.tensor([list(ids)]), max_new_tokens=64, min_new_tokens=64, do_sample=False, repetition_penalty=1.0
    )[0].tolist()
    assert list(generator.get_sequence(0)) == expected
