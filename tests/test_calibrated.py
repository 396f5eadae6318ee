"""Quantisers that look at activations, on the embedded model: better than rounding, refused where they cannot be."""

import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import load_pass, model, node, value, weight
from test_quality import TINY, tokens

from onnxmake.build import paths
from onnxmake.build.target import read_target
from onnxmake.errors import PassError, TargetError
from onnxmake.model import awq, canonical
from onnxmake.model.assemble import assemble
from onnxmake.model.calibration import windows
from onnxmake.model.optimize import optimize
from onnxmake.model.session import open_scoring
from onnxmake.model.stored import FILE

TEXT = paths.TEXTS / "calibration.txt"
SAMPLES = 12
HELD_OUT = 4  # windows


def logarithms(folder: Path) -> np.ndarray:
    """float64 [windows, tokens, vocabulary]: logarithms of the probabilities of next tokens."""
    session, rows = open_scoring(folder / "model.onnx"), tokens()[:: len(tokens()) // HELD_OUT][:HELD_OUT]
    past = {i.name: np.zeros((HELD_OUT, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs()[2:]}
    feed = {"input_ids": rows, "attention_mask": np.ones_like(rows), **past}
    logits = session.run(["logits"], feed)[0].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def optimized(captured, tmp_path_factory) -> Path:
    """What a quantiser of the embedded model sees."""
    src = tmp_path_factory.mktemp("optimized")
    graph = ir.load(captured)
    optimize(graph, "cpu")
    canonical.save(graph, src / "model.onnx")
    (src / "checkpoint").symlink_to(TINY)
    (src / "calibration.txt").symlink_to(TEXT)
    return src


@pytest.fixture(scope="module")
def divergence(built, optimized, tmp_path_factory):
    """KL divergence, in nats, of the embedded model from itself with all weights at 4 bits by a method."""
    full = logarithms(built.dist("tiny-fp32-cpu"))

    @functools.cache
    def of(name: str) -> float:
        used, out = load_pass(name), tmp_path_factory.mktemp(name)
        if hasattr(used, "run"):
            used.run(optimized, out, used.Options(calibration="calibration.txt", samples=SAMPLES))
            graph = ir.load(out / "model.onnx")
        else:
            graph = ir.load(optimized / "model.onnx")
            assert used.rewrite(graph, used.Options()) > 0
        assemble(graph, "cpu", TINY, out, lambda done, total: None, out / FILE)
        return float((np.exp(full) * (full - logarithms(out))).sum(-1).mean())

    return of


def test_gptq_loses_at_most_six_tenths_of_what_rounding_loses(divergence):
    assert 0 < divergence("quantize_gptq") < 0.6 * divergence("quantize_rtn")


def test_awq_loses_less_than_rounding(divergence):
    assert 0 < divergence("quantize_awq") < divergence("quantize_rtn")


def test_channels_with_large_activations_get_finer_steps():
    """The more a few channels stand out, the more scaling saves; where none does, it is left."""
    rng = np.random.default_rng(0)
    weight, plain = rng.standard_normal((64, 128), np.float32), np.eye(128, dtype=np.float32)
    standing_out = np.diag(np.where(np.arange(128) % 16 == 0, 2500.0, 1.0)).astype(np.float32)
    scales = awq.channel_scales(weight, standing_out, 4, 128, True)
    assert (scales[::16] > 2 * np.median(scales)).all()
    once, scaled = (awq._error(weight, s, standing_out, 4, 128, True) for s in (np.ones_like(scales), scales))
    assert scaled < 0.6 * once
    np.testing.assert_array_equal(awq.channel_scales(weight, plain, 4, 128, True), np.ones(128, np.float32))


@pytest.mark.parametrize("name", ["quantize_gptq", "quantize_awq"])
def test_a_text_that_is_too_short_is_refused(optimized, tmp_path, name):
    used = load_pass(name)
    with pytest.raises(TargetError, match=r"holds \d+ samples of 256 tokens; 9999 are asked for") as caught:
        used.run(optimized, tmp_path, used.Options(calibration="calibration.txt", samples=9999))
    assert "lower samples or tokens" in caught.value.action


@pytest.mark.parametrize("name", ["quantize_gptq", "quantize_awq"])
def test_a_graph_without_products_is_refused(tmp_path, name):
    used, ids = load_pass(name), value("input_ids", ["batch", "sequence"], ir.DataType.INT64)
    table = weight("model.embed_tokens.weight", 4096, 256)
    look = node("Gather", [table.outputs[0], ids], ["batch", "sequence", 256], domain="")
    look.outputs[0].name = "y"
    (tmp_path / "src").mkdir()
    canonical.save(model([ids], look.outputs, table, look), tmp_path / "src" / "model.onnx")
    (tmp_path / "src" / "checkpoint").symlink_to(TINY)
    (tmp_path / "src" / "calibration.txt").symlink_to(TEXT)
    with pytest.raises(PassError, match="changed nothing"):
        used.run(tmp_path / "src", tmp_path, used.Options(calibration="calibration.txt", samples=1))


def test_windows_lie_all_over_the_text(tmp_path):
    rows = windows(TINY, TEXT, "", 5, 16)
    whole = windows(TINY, TEXT, "", 1, 500)[0]
    assert rows.shape == (5, 16) and (rows[0] == whole[:16]).all()
    assert len({row.tobytes() for row in rows}) == 5


TARGET = """# one
device = "cpu"
[source]
path = "tiny"
[[pass]]
use = "export"
[[pass]]
use = "quantize_gptq"
{}
[[pass]]
use = "package_genai"
"""


def test_a_target_names_a_text_beside_it_or_takes_the_one_that_comes_along(tmp_path):
    file = tmp_path / "one.toml"
    file.write_text(TARGET.format(""))
    assert read_target(file).passes[1].files == {"calibration.txt": TEXT}
    file.write_text(TARGET.format('calibration = "mine.txt"'))
    with pytest.raises(TargetError, match=r"calibration = 'mine.txt' is no file"):
        read_target(file)
    (tmp_path / "mine.txt").write_text("text")
    assert read_target(file).passes[1].files == {"calibration.txt": tmp_path / "mine.txt"}
