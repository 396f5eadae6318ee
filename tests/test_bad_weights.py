"""What quantisers do with weights that are not finite, zero or of odd widths, with useless calibration data, and globs of nothing.

test_quantisers.py asks the same of those whose kernels it compiles.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import load_pass, model, node, value, weight, write_safetensors

from onnxmake.errors import CheckpointError, OnnxmakeError, PassError, TargetError, UnsupportedError
from onnxmake.model import canonical
from onnxmake.model.assemble import assemble
from onnxmake.model.gptq import gptq, order_of
from onnxmake.model.letters import COUNT, write_tokenizer
from onnxmake.model.quantisers.fitting import nearest
from onnxmake.model.session import open_session
from onnxmake.model.stored import FILE, dequantized

WIDTH, INNER = 40, 72  # of which blocks of 32 divide neither
UP, DOWN = "model.layers.0.up.weight", "model.layers.1.down.weight"
SHAPES = {"embed": (COUNT, WIDTH), UP: (INNER, WIDTH), DOWN: (WIDTH, INNER), "head": (COUNT, WIDTH)}
TEXT = {"calibration": "calibration.txt", "samples": 3, "tokens": 16}
BLOCKS = {"embeddings": "keep"}  # a look-up reads whole blocks only
QUANTISERS = {  # pass -> options
    "quantize_rtn": BLOCKS,
    "quantize_gptq": BLOCKS | TEXT,
    "quantize_awq": BLOCKS | TEXT,
    "quantize_dynamic": {"device": "cpu"},
    "quantize_static": {"device": "cpu"} | TEXT,
    "cast_calibrated": {"device": "cpu"} | TEXT,
}
ALLOCATES = {"allocate_bits": {"average_bits": 5.0} | TEXT}
CALIBRATED = {name: options for name, options in QUANTISERS.items() if "samples" in options} | ALLOCATES
every_quantiser = pytest.mark.parametrize("name", QUANTISERS)


def weights(**changed) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in SHAPES.items()} | changed


def graph() -> ir.Model:
    """input_ids -> an embedding, two products whose result is added to it, scores of letters."""
    ids, stored = (
        value("input_ids", ["batch", "sequence"], ir.DataType.INT64),
        {n: weight(n, *SHAPES[n]) for n in SHAPES},
    )
    w, lead = {name: made.outputs[0] for name, made in stored.items()}, ["batch", "sequence"]
    x = node("Gather", [w["embed"], ids], [*lead, WIDTH], domain="")
    up = node("Linear", [x.outputs[0], w[UP]], [*lead, INNER])
    down = node("Linear", [up.outputs[0], w[DOWN]], [*lead, WIDTH])
    total = node("Add", [x.outputs[0], down.outputs[0]], [*lead, WIDTH], domain="")
    scores = node("Linear", [total.outputs[0], w["head"]], [*lead, COUNT])
    scores.outputs[0].name = "logits"
    return model([ids], scores.outputs, *stored.values(), x, up, down, total, scores)


def made(folder: Path, name: str, w: dict[str, np.ndarray], **changed) -> np.ndarray:
    """The logits [letters, letters] for each letter alone, by the weights `w` quantised by the pass."""
    used, src, out = load_pass(name), folder / "src", folder / "out"
    for path in (src / "checkpoint", out):
        path.mkdir(parents=True)
    write_safetensors(src / "checkpoint" / "model.safetensors", w)
    write_tokenizer(src / "checkpoint", COUNT)
    (src / "checkpoint" / "config.json").write_text("{}")
    (src / "calibration.txt").write_text("what is here is read, letter by letter; there are enough of them.")
    canonical.save(graph(), src / "model.onnx")
    o = used.Options(**(QUANTISERS | ALLOCATES).get(name, BLOCKS) | changed)
    if hasattr(used, "run"):
        used.run(src, out, o)
        built = ir.load(out / "model.onnx")
    else:
        built = ir.load(src / "model.onnx")
        used.rewrite(built, o)
    assemble(built, "cpu", src / "checkpoint", out, lambda done, total: None, out / FILE)
    return open_session(out / "model.onnx").run(None, {"input_ids": np.arange(COUNT)[:, None]})[0][:, 0]


def exact(w: dict[str, np.ndarray]) -> np.ndarray:
    return (w["embed"] + w["embed"] @ w[UP].T @ w[DOWN].T) @ w["head"].T


def check_poison(folder: Path, name: str, poison: float) -> None:
    """It is said, with the tensor's name."""
    w = weights()
    w[DOWN][3, 7] = poison
    with pytest.raises(CheckpointError, match=f"Tensor {DOWN} holds NaN or infinity"):
        made(folder, name, w)


def check_nothing(folder: Path, name: str, nothing: float) -> None:
    """Blocks, rows and a channel that hold `nothing` harm no others, nor do widths that blocks do not divide."""
    w = weights()
    w["embed"][:, 5], w[UP][3], w[UP][4, :32], w[DOWN][:, 32:64], w["head"][9] = (nothing,) * 5
    wanted, found = exact(w), made(folder, name, w)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found - wanted) < (0.2 if "quantize" in name else 0.01) * np.linalg.norm(wanted)
    assert np.abs(found[:, 9]).max() < 1e-3 * np.abs(wanted).max()


NOTHING = [0, 1e-40]  # float32 holds 1e-40 with few bits, and no scale can be made of it


@every_quantiser
@pytest.mark.parametrize("poison", [np.nan, -np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, name, poison):
    check_poison(tmp_path, name, poison)


def test_allocate_bits_names_it_too(tmp_path):
    w = weights()
    w["head"][1] = np.inf
    with pytest.raises(CheckpointError, match="Tensor head holds NaN or infinity"):
        made(tmp_path, "allocate_bits", w)


@every_quantiser
@pytest.mark.parametrize("nothing", NOTHING)
def test_zero_blocks_dead_channels_and_widths_that_blocks_do_not_divide(tmp_path, name, nothing):
    check_nothing(tmp_path, name, nothing)


@every_quantiser
def test_a_model_of_zeros_stays_one(tmp_path, name):
    assert not made(tmp_path, name, {n: w * 0 for n, w in weights().items()}).any()


METHODS = {
    "gptq": lambda gram, *settings: gptq(order_of(gram, 0.01, False), *settings),
    "nearest": lambda gram, *settings: nearest(np.diag(gram), *settings),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_where_the_text_tells_nothing_of_a_product_its_weight_is_rounded_as_it_is(method, symmetric):
    w = weights()[UP]
    found = dequantized(*METHODS[method](np.zeros((WIDTH, WIDTH), np.float32), w, 8, 32, symmetric), 32)
    assert np.abs(found - w).max() < 0.01 * np.abs(w).max()


@pytest.mark.parametrize("name", CALIBRATED)
def test_weights_that_make_nan_of_any_text_are_refused(tmp_path, name):
    w = weights()
    w[UP], w[DOWN] = w[UP] * 1e30, w[DOWN] * 1e30
    with pytest.raises(UnsupportedError, match="computes NaN or infinity from the calibration data"):
        made(tmp_path, name, w)


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_text_that_is_shorter_than_asked_is_refused(tmp_path, name):
    with pytest.raises(TargetError, match="holds 4 samples of 16 tokens; 5 are asked for"):
        made(tmp_path, name, weights(), samples=5)


@pytest.mark.parametrize("name", [name for name in QUANTISERS if name != "cast_calibrated"])  # which has no list
def test_a_glob_that_matches_nothing_is_refused(tmp_path, name):
    with pytest.raises(OnnxmakeError, match=r"keep = 'model.layers.\*.upp' (matches|names) no weight") as caught:
        made(tmp_path, name, weights(), keep=("model.layers.*.upp",))
    assert isinstance(caught.value, PassError | TargetError) and caught.value.action


def test_without_damping_a_text_that_is_too_short_says_so(tmp_path):
    with pytest.raises(
        PassError, match="(?s)damping = 0, the Hessian of a product cannot be inverted.*or more samples"
    ):
        order_of(np.ones((WIDTH, WIDTH), np.float32) * 1e6, 0.0, False)


@pytest.mark.parametrize("name", ["quantize_rtn", "quantize_gptq", "quantize_awq", "allocate_bits"])
def test_an_embedding_that_blocks_do_not_divide_is_refused(tmp_path, name):
    budget = {"average_bits": 0, "max_size_mb": 1} if name == "allocate_bits" else {}
    with pytest.raises(UnsupportedError, match="The embedding is 40 wide, which block_size 32 does not divide"):
        made(tmp_path, name, weights(), embeddings="same", **budget)
