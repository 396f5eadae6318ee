"""What benches feed to models that ONNX Runtime runs by itself, and how figures are shown."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from graphs import FLOAT, model, node, value

from onnxmake.build import results
from onnxmake.errors import UnsupportedError
from onnxmake.model import canonical, latency
from onnxmake.model.session import open_session

INT, HALF = ir.DataType.INT64, ir.DataType.FLOAT16
TEXT = {name: (["batch", "sequence"], INT) for name in ("input_ids", "attention_mask", "token_type_ids")}
WHOLE = {"p50": 0.0123, "p90": 0.02}
RUN = {"prompt_tokens": 32, "first_token_s": WHOLE, "prefill": {"p50": 2601.6, "p90": 1600.0}, "decode": None}
RESULT = {"load_s": 0.456, "peak_bytes": 123_400_000}


def saved(folder: Path, inputs: dict[str, tuple[list, ir.DataType]]) -> Path:
    """A model of these inputs that hands each on."""
    given = [value(name, shape, dtype) for name, (shape, dtype) in inputs.items()]
    ends = [node("Identity", [v], list(v.shape), domain="", dtypes=(v.dtype,)) for v in given]
    canonical.save(model(given, [n.outputs[0] for n in ends], *ends), folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 9}}))
    return folder


def test_a_text_is_as_long_as_asked_of_tokens_that_there_are_and_without_padding(tmp_path):
    folder = str(saved(tmp_path, TEXT))
    feed = latency.inputs(open_session(Path(folder, "model.onnx")), 300, latency.setting(folder, "vocab_size", 1000))
    assert feed.keys() == TEXT.keys() and all(v.shape == (1, 300) and v.dtype == np.int64 for v in feed.values())
    assert {*feed["input_ids"].ravel()} == {*range(9)}
    assert (feed["attention_mask"] == 1).all() and not feed["token_type_ids"].any()


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "sizes"),
    [
        ("pixel_values", ["batch", 3, 32, 48], FLOAT, (1, 3, 32, 48)),
        ("pixel_values", ["batch", 3, "height", "width"], HALF, (1, 3, 224, 224)),
        ("input_features", ["batch", 80, 60], FLOAT, (1, 80, 60)),
    ],
)
def test_pictures_and_sounds_are_random_numbers_of_the_model_s_size_and_type(tmp_path, name, shape, dtype, sizes):
    feed = latency.inputs(open_session(saved(tmp_path, {name: (shape, dtype)}) / "model.onnx"), 32, 9)
    assert feed.keys() == {name} and feed[name].shape == sizes and feed[name].dtype == dtype.numpy()
    assert 0.8 < feed[name].astype(np.float32).std() < 1.2


def test_texts_are_timed_by_length_and_pictures_once(tmp_path):
    _, timed = latency.runs(str(saved(tmp_path, TEXT)), "CPU", [4, 8], 3)
    assert [(count, len(seconds)) for count, seconds in timed] == [(4, 3), (8, 3)]
    assert all(s > 0 for _, seconds in timed for s in seconds)
    picture = {"pixel_values": (["batch", 3, 8, 8], FLOAT)}
    loaded, timed = latency.runs(str(saved(tmp_path, picture)), "CPU", [4, 8], 2)
    assert loaded > 0 and [(count, len(seconds)) for count, seconds in timed] == [(1, 2)]


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("device", ["CUDA", "DirectML"])
def test_a_device_that_is_not_here_is_said(tmp_path, device):
    with pytest.raises(UnsupportedError, match=f"loaded on CPUExecutionProvider, not on {device}"):
        open_session(saved(tmp_path, TEXT) / "model.onnx", device)


def test_a_run_without_decode_leaves_its_columns_empty():
    shown = results.figures(RESULT, RUN)
    assert shown == ["0.46", "12", "2602", "", "", "123"]
    assert len(shown) == len(results.COLUMNS) - 4  # behind target, prompt, size and ratio
    assert results.figures(RESULT, RUN | {"decode": {"p50": 98.76, "p90": 54.321}})[3:5] == ["98.8", "54.3"]


def test_a_result_without_decode_is_one_to_show(tmp_path):
    machine = {"cpu": "a CPU", "cores": 2, "system": "a system"}
    more = {"target": "x", "device": "CPU", "files": {"f": ["sha", 1]}, "machine": machine, "settings": {"repeats": 3}}
    result = RESULT | more | {"runs": [RUN]}
    for text, there in [(result, True), (result | {"runs": [RUN | {"prefill": None}]}, False)]:
        (tmp_path / "x.json").write_text(json.dumps(text))
        assert (results.read(tmp_path / "x.json") is not None) is there


@pytest.mark.parametrize("decode", [None, {"p50": 98.76, "p90": 54.321}])
def test_the_table_speaks_of_decoding_where_something_decodes(tmp_path, monkeypatch, capsys, decode):
    machine = {"cpu": "a CPU", "cores": 2, "system": "a system"}
    result = RESULT | {"machine": machine, "settings": {"repeats": 3}, "runs": [RUN | {"decode": decode}]}
    built = {"files": {"model.onnx": ["sha", 1]}, "target": "x"}
    for name, made in {"delivered": built, "of": result, "_source_size": None}.items():
        monkeypatch.setattr(results, name, lambda *_, made=made: made)
    monkeypatch.setattr(results.paths, "BUILD", tmp_path)
    results.table([SimpleNamespace(name="x")], ["x"])
    printed, written = capsys.readouterr().out, (tmp_path / "bench" / "bench.md").read_text()
    for text in (printed, written):
        assert "p50 after one warm-up" in text and ("nine of ten runs decode" in text) is bool(decode)
