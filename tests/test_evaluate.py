"""The figures of `doit check`, against other computations of them: windows, divergence, similarity, and whole models."""

import json
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import test_quality
from graphs import FLOAT, model, node, value
from hypothesis import given
from hypothesis import strategies as st
from test_bench import HALF, TEXT, saved

from onnxmake.build import paths
from onnxmake.errors import CheckFailed, CheckpointError, TargetError, UnsupportedError
from onnxmake.model import canonical, divergence, evaluate, feeds, similarity, texts
from onnxmake.model.session import open_session

TINY = paths.TARGETS / "tiny"
ASKED = {
    "text": str(TINY / "heldout.txt"),
    "template": "",
    "window": 512,
    "stride": 512,
    "max_tokens": 1024,
    "whole": False,
}


@dataclass
class Words:
    """A tokenizer whose tokens are numbers with spaces between them; `before` stands before every text."""

    before: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    longest: int = 10**9

    @property
    def special_tokens_mask(self):
        return [1] * len(self.before) + [0] * (len(self.ids) - len(self.before))

    @property
    def attention_mask(self):
        return [1] * len(self.ids)

    @property
    def type_ids(self):
        return [0] * len(self.ids)

    def encode(self, text, add_special_tokens=True):
        own = [int(word) if word.isdigit() else 9 for word in text.split()]
        return Words(self.before, ([*self.before] if add_special_tokens else []) + own[: self.longest])

    def enable_truncation(self, longest):
        self.longest = longest

    def encode_batch(self, lines):
        return [self.encode(line) for line in lines]


def numbers(count):
    return " ".join(map(str, range(count)))


@pytest.mark.parametrize(
    ("window", "stride", "before", "rows", "first"),
    [
        (4, 4, (), [[0, 1, 2, 3], [4, 5, 6, 7]], 1),
        (4, 2, (), [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]], 2),
        (4, 3, (), [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]], 1),
        (4, 4, (77,), [[77, 0, 1, 2], [77, 3, 4, 5], [77, 6, 7, 8]], 1),
        (4, 1, (77, 78), [[77, 78, i, i + 1] for i in range(9)], 3),
    ],
)
def test_windows_by_hand(window, stride, before, rows, first):
    made = texts.windows(Words(before), numbers(10), window, stride, 10, False)
    assert (made[0].tolist(), made[1]) == (rows, first)


@given(st.integers(2, 9), st.data())
def test_each_token_counts_once_and_has_something_before_it(window, data):
    stride, before = data.draw(st.integers(1, window)), tuple(range(100, 100 + data.draw(st.integers(0, window - 1))))
    count = data.draw(st.integers(window, 40))
    rows, first = texts.windows(Words(before), numbers(50), window, stride, count, False)
    counted = [token for row in rows.tolist() for token in row[first:]]
    assert first >= 1 and len(counted) == len({*counted}) and not {*counted} & {*before}
    assert all(row[: len(before)] == [*before] for row in rows.tolist())
    assert all(len(row) - first <= stride for row in rows.tolist())
    if stride < window - len(before) or before:  # without overlap nothing comes before a window's first token
        assert counted == [*range(counted[0], counted[-1] + 1)]
    assert count - stride <= rows.max(initial=0, where=rows < 100) < count


@pytest.mark.parametrize(("count", "window", "wanted"), [(9, 4, 10), (3, 4, 4)])
def test_a_text_that_is_too_short_says_what_it_has(count, window, wanted):
    with pytest.raises(TargetError, match=f"has {count} tokens, and the check wants {wanted}") as caught:
        texts.windows(Words(), numbers(count), window, window, wanted, count < window)
    assert f"max_tokens = {count}" in caught.value.action
    with pytest.raises(TargetError, match="has 9 tokens, and the check wants 10"):
        texts.batches(Words(), "1 2 3 4\n5 6 7 8\n9", 4, 10, 0, False)


def test_the_default_text_may_be_shorter():
    assert texts.windows(Words(), numbers(9), 4, 4, 100, True)[0].shape == (2, 4)
    (batch,) = texts.batches(Words(), "1 2\n\n3", 4, 100, 5, True)
    assert {name: rows.tolist() for name, rows in batch.items()} == {
        "input_ids": [[1, 2], [3, 5]],
        "attention_mask": [[1, 1], [1, 0]],
        "token_type_ids": [[0, 0], [0, 0]],
    }


def test_lines_are_cut_at_the_window_and_no_more_than_have_the_tokens_asked_for():
    made = texts.batches(Words(), "\n".join(["1 2 3 4 5", "6", "7 8"] * 20), 3, 60, 0, False)
    assert sum(int(batch["attention_mask"].sum()) for batch in made) == 60
    assert [len(batch["input_ids"]) for batch in made] == [16, 14] and made[0]["input_ids"].shape[1] == 3


def test_lines_fill_the_sizes_that_a_model_is_fixed_to():
    text = "1 2 3 4 5\n6\n7 8"
    made = texts.batches(Words(), text, 9, 100, 0, True, (1, 4))
    assert [batch["input_ids"].tolist() for batch in made] == [[[1, 2, 3, 4]], [[6, 0, 0, 0]], [[7, 8, 0, 0]]]
    (batch,) = texts.batches(Words(), text, 9, 100, 0, True, (2, None))  # the third line has no second beside it
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    with pytest.raises(TargetError, match="The text has 3 lines, and the model takes 4 at a time"):
        texts.batches(Words(), text, 9, 100, 0, True, (4, None))


class Fixed:
    """A decoder's session, as far as it is asked for its inputs."""

    def __init__(self, ids, mask, past):
        names = {"input_ids": ids, "attention_mask": mask, "past_key_values.0.key": ["batch", 2, past, 4]}
        self.inputs = [SimpleNamespace(name=name, shape=shape) for name, shape in names.items()]

    def get_inputs(self):
        return self.inputs


def test_a_decoder_of_fixed_sizes_is_evaluated_where_it_takes_a_window():
    evaluate._need_window(Fixed(["batch", "sequence"], ["batch", "total"], "past"), 8)
    evaluate._need_window(Fixed([1, 8], [1, "total"], "past"), 8)
    with pytest.raises(UnsupportedError, match=r"(?s)takes input_ids of \[1, 4\].*gives \[1, 8\].*window = 4"):
        evaluate._need_window(Fixed([1, 4], [1, "total"], "past"), 8)
    with pytest.raises(UnsupportedError, match="takes a past of one length only"):
        evaluate._need_window(Fixed([1, 8], [1, "total"], 7), 8)


def test_a_checkpoint_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="tokenizer.json is missing"):
        texts.tokenizer_of(tmp_path)


def logits(seed, rows=7, width=11, scale=4.0):
    return (np.random.default_rng(seed).standard_normal((rows, width)) * scale).astype(np.float32)


@given(st.integers(0, 2**32), st.sampled_from([np.float32, np.float16]), st.integers(1, 40))
def test_figures_equal_their_definitions_whatever_is_worked_on_at_a_time(seed, dtype, values):
    a, b, following = logits(seed), logits(seed + 1).astype(dtype), np.arange(7)
    p, q = (np.exp(x.astype(np.float64)) for x in (a, b))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    kept, divergence.VALUES = divergence.VALUES, values
    try:
        made = divergence.compared(a, b, following)
    finally:
        divergence.VALUES = kept
    rows = np.arange(7)
    expected = [
        -np.log(p[rows, following]),
        -np.log(q[rows, following]),
        (p * np.log(p / q)).sum(-1),
        a.argmax(1) == b.argmax(1),
    ]
    assert np.allclose(made, expected, rtol=1e-9, atol=1e-12)
    assert np.allclose(divergence.compared(a + 5, b - 3, following)[2], made[2], atol=2e-2)


def test_a_model_does_not_diverge_from_itself():
    a = logits(0)
    figures = divergence.summary(divergence.compared(a, a, np.arange(7)))
    assert figures["kl"] == figures["kl_p99"] == figures["perplexity_rise"] == 0 and figures["top1"] == 1
    assert figures["perplexity"] == figures["perplexity_unquantised"] > 1


def test_what_the_reference_rules_out_may_be_ruled_out_or_not():
    a, b = logits(0), logits(1)
    a[:, 10] = -np.inf
    assert np.isfinite(divergence.compared(a, b, np.arange(7))).all()
    b[:, 10] = -np.inf
    cut = divergence.compared(a[:, :10], b[:, :10], np.arange(7))
    assert np.allclose(divergence.compared(a, b, np.arange(7)), cut)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_fail_the_check(wrong):
    b = logits(1)
    b[3, 4] = wrong
    with pytest.raises(CheckFailed, match="NaN or infinity"):
        divergence.compared(logits(0), b, np.arange(7))


def test_padding_has_no_say_in_a_cosine_and_labels_are_counted():
    a = {"states": logits(0, 6, 4).reshape(2, 3, 4), "logits": np.array([[1.0, 2.0], [5.0, 3.0]])}
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    b = {"states": a["states"] * 2, "logits": np.array([[1.0, 3.0], [3.0, 5.0]]), "more": np.ones(2)}
    b["states"][1, 1:] = 1e6
    cosines, same = similarity.compared(a, b, mask)
    assert np.allclose(cosines[:2], 1) and same == [True, False]
    expected = [7 / math.sqrt(5 * 10), 30 / 34]
    assert np.allclose(cosines[2:], expected)
    assert similarity.summary(cosines, same) == {
        "cosine": min(cosines),
        "cosine_mean": pytest.approx(np.mean(cosines)),
        "top1": 0.5,
    }
    one = {"logits": np.array([[1.0], [2.0]])}
    assert similarity.compared(one, one, None)[1] == [] and "top1" not in similarity.summary([1.0], [])


def test_nothing_equals_nothing_only_and_what_is_no_number_or_shared_is_an_error():
    zero, one = {"x": np.zeros((1, 2))}, {"x": np.ones((1, 2))}
    assert [similarity.compared(*pair, None)[0] for pair in ((zero, zero), (zero, one), (one, one))] == [
        [1.0],
        [0.0],
        [pytest.approx(1.0)],
    ]
    with pytest.raises(CheckFailed, match="NaN or infinity"):
        similarity.compared(one, {"x": np.full((1, 2), np.nan)}, None)
    with pytest.raises(UnsupportedError, match="gives y; the unquantised one x"):
        similarity.compared(one, {"y": np.ones((1, 2))}, None)


def test_a_session_takes_what_it_reads_in_its_own_types_and_says_what_it_lacks(tmp_path):
    session = open_session(saved(tmp_path, {"pixel_values": (["batch", 3], HALF)}) / "model.onnx")
    (made,) = feeds.outputs(session, {"pixel_values": np.full((2, 3), 0.1), "more": np.zeros(2)}).values()
    assert made.dtype == np.float16 and made.shape == (2, 3)
    with pytest.raises(UnsupportedError, match="reads pixel_values, which an evaluation does not give"):
        feeds.outputs(session, {"input_ids": np.zeros((2, 3))})


@pytest.fixture
def alike(monkeypatch):
    """In place of the unquantised model: the model itself, its outputs turned by `by`."""

    def put(folder, by=lambda outputs: outputs):
        session = open_session(folder / "model.onnx")
        fake = lambda graph, checkpoint, given: (by(feeds.outputs(session, feed)) for feed in given)  # noqa: E731
        monkeypatch.setattr(evaluate, "reference_outputs", fake)
        return {"model": str(folder), "checkpoint": str(folder), "graph": ""}

    return put


def test_what_reads_no_text_is_compared_on_random_inputs_with_their_seeds(tmp_path, alike):
    asked = alike(saved(tmp_path, {"pixel_values": (["batch", 3, 4, 4], HALF)})) | ASKED
    found = evaluate.evaluate(**asked)
    assert found["metrics"] == {"cosine": pytest.approx(1.0), "cosine_mean": pytest.approx(1.0)}
    assert (found["counted"], found["of"]) == (16, "random inputs, seeds 0 to 15")
    assert evaluate.evaluate(**asked) == found


def test_a_window_longer_than_the_model_reads_is_an_error(tmp_path, alike):
    folder = saved(tmp_path, TEXT)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 128}))
    with pytest.raises(TargetError, match="window = 512 under .check., and the model reads 128 tokens"):
        evaluate.evaluate(**alike(folder), **ASKED)


def test_a_model_with_operators_of_another_device_is_said(tmp_path):
    x = value("pixel_values", [1, 2], FLOAT)
    end = node("NhwcConv", [x], [1, 2], domain="com.microsoft", dtypes=(ir.DataType.FLOAT,))
    canonical.save(model([x], [end.outputs[0]], end), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="The CPU does not run this model"):
        evaluate.evaluate(str(tmp_path), "", str(tmp_path), **ASKED)


def evaluated(built, captured, name, **changed):
    asked = {"model": str(built.dist(name)), "graph": str(captured), "checkpoint": str(TINY)}
    return evaluate.evaluate(**asked | ASKED | changed)


def test_perplexity_of_the_embedded_model_is_what_it_is_elsewhere(built, captured):
    rows = test_quality.tokens()[:2]
    found = evaluated(built, captured, "tiny-int4-cpu")
    metrics = found["metrics"]
    assert (found["counted"], found["of"]) == (2 * 511, "tokens")
    assert metrics["perplexity"] == pytest.approx(test_quality.perplexity(built.dist("tiny-int4-cpu"), rows), rel=1e-6)
    full = test_quality.perplexity(built.dist("tiny-fp32-cpu"), rows)
    assert metrics["perplexity_unquantised"] == pytest.approx(full, rel=1e-5)
    assert metrics["perplexity_rise"] == pytest.approx(metrics["perplexity"] / full - 1, abs=1e-4)
    assert 0.005 < metrics["kl"] < 0.03 < metrics["kl_p99"] < 0.2 and 0.85 < metrics["top1"] < 0.97


@pytest.mark.parametrize(("name", "kl", "top1"), [("tiny-fp32-cpu", 1e-9, 1), ("tiny-int4-cuda", 0.03, 0.85)])
def test_float32_is_the_unquantised_model_and_halves_are_evaluated_too(built, captured, tmp_path, name, kl, top1):
    found = evaluated(built, captured, name, window=256, stride=128, max_tokens=512)
    assert found["counted"] == 3 * 128
    assert 0 <= found["metrics"]["kl"] < kl and top1 <= found["metrics"]["top1"] <= 1
