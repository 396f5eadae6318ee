"""Sizes that are estimated from shapes, and what `doit new --max-size-mb` decides by them."""

import os

import onnx_ir as ir
import pytest
from hub_server import COMMIT, REPO, serve

from onnxmake.build import paths, sizes
from onnxmake.build.decide import ASKED, decide, table
from onnxmake.build.origin import Origin, origin
from onnxmake.build.traits import traits
from onnxmake.errors import UnsupportedError
from onnxmake.model.footprint import file_size
from onnxmake.model.footprint import sizes as laid_out
from onnxmake.model.optimize import optimize
from onnxmake.model.options import BlockOptions

TINY = paths.TARGETS / "tiny"
ANY = dict.fromkeys(table()[ASKED], "")


@pytest.fixture(scope="module")
def tiny() -> Origin:
    return origin(str(TINY), shapes=True)


def facts_of(found: Origin, device: str = "cpu", **more) -> dict:
    return traits(found.folder, found.files) | {"model": "tiny", "device": device} | more


def decided(found: Origin, budget: float, device: str = "cpu", **asked):
    """What is decided within a budget, with the estimate of it. Raises UnsupportedError where there is none."""
    facts, asked = facts_of(found, device), ANY | asked
    facts |= sizes.budgeted(found, facts, asked, budget)
    made = decide(facts, asked)
    made["size"] = sizes.check(found, facts, asked, made)
    return {name: decision.choice for name, decision in made.items()}


# -- estimates


@pytest.mark.parametrize("more", [{}, {"block": 0}, {"billions": None}])
@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_an_estimate_is_what_is_written_but_for_a_fiftieth(captured, tiny, precision, more):
    facts = facts_of(tiny, **more)  # with embeddings as they are; and with a head of 4 bits
    made = decide(facts, ANY | {"precision": precision})
    choice, graph = {name: decision.choice for name, decision in made.items()}, ir.load(captured)
    optimize(graph, "cpu")
    options = ("bits", "block_size", "symmetric", "lm_head", "embeddings")
    found = laid_out(graph, choice["bits"], BlockOptions(**{n: choice[n] for n in options if n in choice}))
    told = laid_out(graph, 8, BlockOptions(**{n: choice[n] for n in options if n in choice}))
    head = [key for key, _ in found if "embed_tokens" in str(key)] if choice.get("lm_head") == "int8" else []
    assert sizes.weights(tiny.shapes, facts, made) == pytest.approx(file_size(found, told, head), rel=0.02)


@pytest.mark.parametrize(("name", "precision"), [("tiny-fp32-cpu", "fp32"), ("tiny-int8-cpu", "int8")])
def test_an_estimate_counts_tokenizer_and_graph(untouched, tiny, name, precision):
    facts = facts_of(tiny)
    block = {"int8": "32"}.get(precision, "")
    made = decide(facts, ANY | {"precision": precision, "block_size": block})
    folder = untouched / "dist" / name
    total = sum(os.path.getsize(folder / file) for file in os.listdir(folder))
    assert sizes.estimate(tiny, facts, made) == pytest.approx(total / 1e6, rel=0.02)


def test_a_scalar_an_expert_and_a_convolution():
    made = decide(facts_of(origin(str(TINY))), ANY | {"precision": "int8"})
    facts = {"mixture": True, "vocab": 999, "kind": "decoder"}
    of = {shape: sizes.weights({name: shape}, facts, made) for name, shape in
          {"scale": (), "conv.weight": (64, 1, 4), "experts.up": (4, 64, 128), "layers.0.experts.0.up": (64, 128)}.items()}  # fmt: skip
    assert of[()] == 64 and of[64, 1, 4] == 64 * 4 * 4 and of[4, 64, 128] == 4 * (64 * 128 + 64 * 4)
    assert of[64, 128] == 64 * 128 + 64 * 4  # codes and scales


# -- budgets


@pytest.mark.parametrize(
    ("budget", "precision", "block"),
    [(30, "int8", 128), (6.5, "int8", 128), (6, "mixed", 32), (4.2, "mixed", 32), (3.7, "mixed", 128)],
)
def test_the_best_precision_that_there_is_room_for(tiny, budget, precision, block):
    made = decided(tiny, budget)
    assert (made["precision"], made["block_size"], made["max_size_mb"]) == (precision, block, budget)
    if precision == "mixed":
        assert made["weights_mb"] == pytest.approx(budget - 0.37, abs=0.02) and "average_bits" not in made


def test_what_no_precision_keeps_is_refused_with_the_smallest_that_can_be_had(tiny):
    with pytest.raises(UnsupportedError) as error:
        decided(tiny, 3)
    said = str(error.value)
    assert "tiny in mixed takes an estimated 3.5" in said and "more than --max-size-mb 3" in said
    *_, precision, _, block, _, budget = error.value.action.rstrip(".").split()
    assert decided(tiny, float(budget), precision=precision, block_size=block)["bits"] == 4
    with pytest.raises(UnsupportedError, match="tiny in int4 takes"):
        decided(tiny, float(budget) - 0.02, precision=precision, block_size=block)


def test_what_was_asked_for_counts(tiny):
    with pytest.raises(UnsupportedError, match="tiny in int8 takes an estimated 6.38"):
        decided(tiny, 5, precision="int8")
    with pytest.raises(UnsupportedError, match="tiny in mixed takes"):
        decided(tiny, 3.7, block_size="32")
    assert decided(tiny, 5, precision="int4")["precision"] == "int4"


@pytest.mark.parametrize(
    ("device", "budget", "precision"),
    [("cuda", 10, "fp16"), ("cuda", 4, "int8"), ("cpu", 4, "int8"), ("cpu", 2, "int4")],
)
def test_an_encoder_within_a_budget(tmp_path, device, budget, precision):
    config = '{"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 256, "vocab_size": 4096}'
    (tmp_path / "config.json").write_text(config)
    shapes = {"embeddings.word_embeddings.weight": (4096, 256), **{f"layer.{i}.weight": (512, 512) for i in range(8)}}
    found = Origin("m", tmp_path, {"config.json": 1, "model.safetensors": 1}, shapes=shapes)
    assert decided(found, budget, device)["precision"] == precision


def test_shapes_of_the_hub_are_the_first_bytes_of_its_files(tmp_path, monkeypatch, output, tiny):
    for name, value in {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ONNXMAKE_RUNNER", "venv")
    with serve(TINY) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = origin(REPO, shapes=True)
    assert found.revision == COMMIT and {n: [*s] for n, s in found.shapes.items()} == {
        n: [*s] for n, s in tiny.shapes.items()
    }
    assert hub.sent["model.safetensors"] == 100_001
