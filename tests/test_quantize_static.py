"""Activations with ranges known from calibration: what is observed, which range it gives, and what is computed with it."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import load_pass, model, node, operations, value, weight, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from test_channels import stands_for

from onnxmake.errors import CheckpointError, PassError, TargetError, UnsupportedError
from onnxmake.model import canonical
from onnxmake.model.activations import observe, running
from onnxmake.model.assemble import assemble
from onnxmake.model.calibration import calibration, windows
from onnxmake.model.letters import write_tokenizer
from onnxmake.model.ranges import BINS, METHODS, Seen, affine, spanned

STATIC, INT64 = load_pass("quantize_static"), ir.DataType.INT64
WIDTH, FILTERS = 6, 5
rng = np.random.default_rng(0)


def picture_model(biased: bool = True, twice: bool = False) -> ir.Model:
    """pixels [batch, 3, 8, 8] -> a convolution, an activation, a product of each column (twice: one more of the same)."""
    pixels = value("pixels", ["batch", 3, 8, 8])
    weights = [weight("filters", FILTERS, 3, 3, 3), weight("matrix", WIDTH, WIDTH), weight("bias", WIDTH)]
    filters, matrix, bias = (w.outputs[0] for w in weights)
    extra = [weight("offset", FILTERS)] if biased else []
    shape = ["batch", FILTERS, WIDTH, WIDTH]
    conv = node("Conv", [pixels, filters, *(e.outputs[0] for e in extra)], shape, domain="", kernel_shape=[3, 3])
    gelu = node("Gelu", [conv.outputs[0]], shape, domain="")
    products = [node("Linear", [gelu.outputs[0], matrix, bias], shape)]
    products += [node("Linear", [products[0].outputs[0], matrix], shape)] if twice else []
    products[-1].outputs[0].name = "y"
    return model([pixels], [products[-1].outputs[0]], *weights, *extra, conv, gelu, *products)


@pytest.fixture
def step_folder(tmp_path) -> Path:
    """What a step of picture_model sees: a checkpoint, its graph, and 6 pictures."""
    shapes = {"filters": (FILTERS, 3, 3, 3), "offset": (FILTERS,), "matrix": (WIDTH, WIDTH), "bias": (WIDTH,)}
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    write_safetensors(tmp_path / "checkpoint" / "model.safetensors", tensors)
    np.savez(tmp_path / "calibration.npz", pixels=rng.standard_normal((6, 3, 8, 8)))
    np.savez(tmp_path / "arrays.npz", **tensors)
    return tmp_path


def options(**changed):
    return STATIC.Options("cpu", **dict(calibration="calibration.npz", samples=6) | changed)


def built(graph: ir.Model, folder: Path, name: str) -> ort.InferenceSession:
    (folder / name).mkdir()
    assemble(graph, "cpu", folder / "checkpoint", folder / name, lambda done, total: None)
    return ort.InferenceSession(str(folder / name / "model.onnx"), providers=["CPUExecutionProvider"])


def quantised(graph: ir.Model, folder: Path, **changed) -> ir.Model:
    canonical.save(graph, folder / "model.onnx")
    (folder / "made").mkdir(exist_ok=True)
    STATIC.run(folder, folder / "made", options(**changed))
    return ir.load(folder / "made" / "model.onnx")


# ---- ranges


def test_a_range_holds_zero_which_a_code_stands_for_exactly():
    for low, high in [(-1, 3), (0.5, 2), (-3, -1), (0, 0), (-1e-3, 1e3), (-7, 0)]:
        scale, zero = affine(low, high)
        assert scale.dtype == np.float32 and zero.dtype == np.uint8 and scale > 0
        ends = (np.array([0, 255]) - zero.astype(int)) * scale
        assert ends[0] <= min(low, 0) + scale / 2 and ends[1] >= max(high, 0) - scale / 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([*METHODS]), st.sampled_from([1e-3, 1, 1e4]))
def test_any_method_gives_a_range_within_what_was_seen(seed, method, size):
    x = np.random.default_rng(seed).standard_cauchy(500) * size
    seen = Seen(x.min(), x.max(), np.histogram(np.abs(x), BINS, (0, np.abs(x).max()))[0])
    low, high = spanned(seen, method)
    assert x.min() <= low <= 0 <= high <= x.max() and high > low
    if method == "minmax":
        assert (low, high) == (x.min(), x.max())


def test_entropy_and_percentile_clip_a_lone_outlier_and_nothing_of_an_even_spread():
    normal = np.append(np.random.default_rng(0).standard_normal(300_000), 60)
    even = np.random.default_rng(0).uniform(-1, 1, 300_000)
    for method in ("entropy", "percentile"):
        for x, least, most in [(normal, 2.5, 6), (even, 0.95, 1)]:
            seen = Seen(x.min(), x.max(), np.histogram(np.abs(x), BINS, (0, np.abs(x).max()))[0])
            assert least < spanned(seen, method)[1] <= most


def test_histograms_of_all_inputs_are_added(step_folder):
    graph = picture_model()
    chosen = [n.inputs[0].name for n in graph.graph if n.op_type in ("Conv", "Linear")]

    def choice(of):
        return [n.inputs[0] for n in of if n.op_type in ("Conv", "Linear")]

    feeds = [*calibration(graph.graph.inputs, step_folder, "calibration.npz", "", 6, 0)]
    before = ir.to_proto(graph).SerializeToString()
    pixels, hidden = observe(graph, choice, "cpu", step_folder / "checkpoint", feeds)
    assert ir.to_proto(graph).SerializeToString() == before and len(chosen) == 2
    given = np.concatenate([feed["pixels"] for feed in feeds])
    assert (pixels.low, pixels.high) == (given.min(), given.max()) and pixels.counts.sum() == given.size
    np.testing.assert_array_equal(pixels.counts, np.histogram(np.abs(given), BINS, (0, np.abs(given).max()))[0])
    with running(graph, choice, "cpu", step_folder / "checkpoint") as run:
        states = [run(feed)[1] for feed in feeds]
    assert (hidden.low, hidden.high) == (np.min(states), np.max(states)) and hidden.counts.sum() == np.size(states)
    assert hidden.low == pytest.approx(-0.17, abs=0.001)  # as low as the activation goes


# ---- the pass


def code_values(x: np.ndarray, of: np.ndarray) -> np.ndarray:
    """x as uint8 codes that span `of` stand for it."""
    scale, zero = affine(float(of.min()), float(of.max()))
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def convolved(x: np.ndarray, filters: np.ndarray) -> np.ndarray:
    return np.einsum("bchwij,ocij->bohw", np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3)), filters)


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("biased", [True, False])
def test_a_model_computes_what_its_integers_stand_for(step_folder, biased, bits):
    w, given = dict(np.load(step_folder / "arrays.npz")), np.load(step_folder / "calibration.npz")["pixels"]
    offset = w["offset"][:, None, None] if biased else 0
    session = built(quantised(picture_model(biased), step_folder, bits=bits), step_folder, "out")
    exact = {"x": given, "conv": convolved(given, w["filters"])}
    states = exact["conv"] + offset
    erf = np.vectorize(__import__("math").erf)
    exact["gelu"] = states * 0.5 * (1 + erf(states / 2**0.5))
    filters = stands_for(w["filters"].reshape(FILTERS, -1), bits).reshape(w["filters"].shape)
    made = code_values(convolved(code_values(given, exact["x"]), filters), exact["conv"]) + offset
    made = made * 0.5 * (1 + erf(made / 2**0.5))
    wanted = code_values(made, exact["gelu"]) @ stands_for(w["matrix"], bits).T + w["bias"]
    (y,) = session.run(None, {"pixels": given.astype(np.float32)})
    steps = abs(wanted).max() / 255
    assert np.abs(y - wanted).max() < 4 * steps and np.abs(y - wanted).mean() < 0.1 * steps
    assert np.linalg.norm(y - (exact["gelu"] @ w["matrix"].T + w["bias"])) < 0.03 * np.linalg.norm(y)


def test_only_standard_ops_are_left_and_the_runtime_makes_integers_of_them(step_folder):
    made = quantised(picture_model(), step_folder)
    assert {n.domain for n in made.graph if n.op_type not in ("Weight", "ChannelQuantizedWeight")} == {""}
    found = operations(made)
    assert (found.count("QuantizeLinear"), found.count("DequantizeLinear")) == (3, 5)
    (step_folder / "out").mkdir()
    assemble(made, "cpu", step_folder / "checkpoint", step_folder / "out", lambda done, total: None)
    setting = ort.SessionOptions()
    setting.optimized_model_filepath = str(step_folder / "optimised.onnx")
    ort.InferenceSession(str(step_folder / "out" / "model.onnx"), setting, providers=["CPUExecutionProvider"])
    assert {"QLinearConv", "MatMulIntegerToFloat"} <= {*operations(ir.load(step_folder / "optimised.onnx"))}


def test_a_product_behind_a_product_has_the_range_of_what_the_first_gives(step_folder):
    made = quantised(picture_model(twice=True), step_folder)
    assert operations(made).count("QuantizeLinear") == 4
    given = np.load(step_folder / "calibration.npz")["pixels"].astype(np.float32)
    exact = built(picture_model(twice=True), step_folder, "exact").run(None, {"pixels": given})[0]
    y = built(made, step_folder, "out").run(None, {"pixels": given})[0]
    assert np.linalg.norm(y - exact) < 0.03 * np.linalg.norm(exact)


def test_the_result_has_the_same_bytes_each_time(step_folder):
    first = ir.to_proto(quantised(picture_model(), step_folder)).SerializeToString()
    assert ir.to_proto(quantised(picture_model(), step_folder)).SerializeToString() == first


def test_what_is_kept_or_quantised_already_stays(step_folder):
    kept = quantised(picture_model(), step_folder, keep=("fil*",))
    assert (
        operations(kept).count("QuantizeLinear") == 1
        and len(next(n for n in kept.graph if n.op_type == "Conv").inputs) == 3
    )
    with pytest.raises(PassError, match="keep = 'nothing' names no weight"):
        quantised(picture_model(), step_folder, keep=("nothing",))
    for done in (quantised(picture_model(), step_folder), picture_model()):
        keep = () if "QuantizeLinear" in operations(done) else ("*",)
        with pytest.raises(PassError, match="quantize_static changed nothing"):
            quantised(done, step_folder, keep=keep)


# ---- calibration data


def text_inputs() -> list[ir.Value]:
    """Of a decoder: tokens, their mask and positions, a past of keys, a state."""
    sizes = {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "total"]}
    sizes |= {"position_ids": ["batch", "sequence"], "token_type_ids": ["batch", "sequence"]}
    floats = {"past_key_values.0.key": ["batch", 2, "past", 4], "past_key_values.0.state": ["batch", 3, 4]}
    return [value(n, s, INT64) for n, s in sizes.items()] + [value(n, s) for n, s in floats.items()]


@pytest.fixture
def text_folder(tmp_path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    write_tokenizer(tmp_path / "checkpoint", 200)
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    (tmp_path / "calibration.txt").write_text("abcdefgh" * 5 + "ab")
    return tmp_path


def test_a_text_is_cut_into_windows_and_what_is_left_over_is_left_out(text_folder):
    feeds = [*calibration(text_inputs(), text_folder, "calibration.txt", "", 5, 8)]
    letters = [ord(letter) - 32 for letter in "abcdefgh"]
    for feed in feeds:
        assert feed["input_ids"].tolist() == [letters] and feed["input_ids"].dtype == np.int64
        assert feed["attention_mask"].tolist() == [[1] * 8] and feed["position_ids"].tolist() == [[*range(8)]]
        assert feed["token_type_ids"].tolist() == [[0] * 8]
        assert feed["past_key_values.0.key"].shape == (1, 2, 0, 4) and feed["past_key_values.0.key"].dtype == np.float32
        assert feed["past_key_values.0.state"].tolist() == np.zeros((1, 3, 4)).tolist()
    assert len(feeds) == 5


def test_special_tokens_are_in_every_window(text_folder):
    path = text_folder / "checkpoint" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = {"type": "BertProcessing", "cls": ["!", 1], "sep": ["~", 94]}
    path.write_text(json.dumps(tokenizer))
    (text_folder / "short.txt").write_text("abcdefghijklmnop")
    found = windows(text_folder / "checkpoint", text_folder / "short.txt", "", 2, 8)
    assert found.tolist() == [[1, *range(65, 71), 94], [1, *range(71, 77), 94]]


@pytest.mark.parametrize(
    ("file", "samples", "tokens", "error", "message"),
    [
        (
            "calibration.txt",
            6,
            8,
            TargetError,
            "(?s)holds 5 samples of 8 tokens; 6 are asked for.*lower samples or tokens",
        ),
        ("calibration.txt", 1, 65, TargetError, "(?s)tokens = 65, and the model reads 64 at most.*tokens = 64"),
    ],
)
def test_too_little_text_and_too_long_windows_are_refused(text_folder, file, samples, tokens, error, message):
    with pytest.raises(error, match=message):
        list(calibration(text_inputs(), text_folder, file, "", samples, tokens))


def test_a_text_without_a_tokenizer_is_refused(text_folder):
    (text_folder / "checkpoint" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)tokenizer.json is missing.*Convert it"):
        list(calibration(text_inputs(), text_folder, "calibration.txt", "", 1, 8))


@pytest.mark.parametrize(
    ("arrays", "samples", "message"),
    [
        (dict(pixel=np.zeros((6, 3, 8, 8))), 1, r"(?s)calibration.npz holds no pixels\..*\[samples, 3, 8, 8\]"),
        (dict(pixels=np.zeros((6, 8, 8, 3))), 1, r"holds pixels\[6, 8, 8, 3\]"),
        (dict(pixels=np.zeros((6, 3, 8))), 1, r"holds pixels\[6, 3, 8\]"),
        (dict(pixels=np.zeros((6, 3, 8, 8))), 7, "holds 6 samples; 7 are asked for"),
    ],
)
def test_arrays_of_another_model_and_too_few_are_refused(step_folder, arrays, samples, message):
    np.savez(step_folder / "calibration.npz", **arrays)
    with pytest.raises(TargetError, match=message):
        quantised(picture_model(), step_folder, samples=samples)


def test_pictures_have_no_default(step_folder):
    with pytest.raises(UnsupportedError, match=r"(?s)reads pixels, and no text.*calibration = \"FILE.npz\""):
        quantised(picture_model(), step_folder, calibration="calibration.txt")


def test_data_that_the_model_makes_nan_of_is_refused(step_folder):
    pixels = np.zeros((6, 3, 8, 8))
    pixels[5, 0, 0, 0] = np.nan
    np.savez(step_folder / "calibration.npz", pixels=pixels)
    with pytest.raises(UnsupportedError, match="computes NaN or infinity from the calibration data"):
        quantised(picture_model(), step_folder)
