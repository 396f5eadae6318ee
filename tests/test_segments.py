"""A graph run a layer at a time computes what it computes at once, and scales taken back change nothing."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
import pytest
from graphs import bind, model, node, run, value, weight, write_safetensors
from test_twins import lowered

from onnxmake.build import paths
from onnxmake.model import awq, layerwise
from onnxmake.model.optimize import optimize
from onnxmake.model.prequantized import read_logical
from onnxmake.model.reader import Reader
from onnxmake.model.running import Runner
from onnxmake.model.safetensors import read_header
from onnxmake.model.segments import advance, outputs, segments, widen
from onnxmake.model.session import open_scoring
from onnxmake.model.unquantised import reference_outputs

TINY = paths.TARGETS / "tiny"
WIDTH = 32


def chain(layers: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    """Products by the weights of as many layers, then by a head; each layer adds its input."""
    x = value("x", ["batch", WIDTH], dtype)
    nodes, last = [], x
    for i in range(layers):
        stored = node("Weight", [], [WIDTH, WIDTH], parts=[f"layers.{i}.weight"], dtypes=(dtype,))
        product = node("Linear", [last, stored.outputs[0]], ["batch", WIDTH], dtypes=(dtype,))
        total = node("Add", [product.outputs[0], last], ["batch", WIDTH], domain="", dtypes=(dtype,))
        nodes, last = [*nodes, stored, product, total], total.outputs[0]
    stored = node("Weight", [], [WIDTH, WIDTH], parts=["head.weight"], dtypes=(dtype,))
    head = node("Linear", [last, stored.outputs[0]], ["batch", WIDTH], dtypes=(dtype,))
    head.outputs[0].name = "y"
    return model([x], head.outputs, *nodes, stored, head)


@pytest.fixture
def checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    names = [*(f"layers.{i}.weight" for i in range(12)), "head.weight"]
    arrays = {name: rng.standard_normal((WIDTH, WIDTH), np.float32) / 8 for name in names}
    return write_safetensors(tmp_path / "model.safetensors", arrays)


@pytest.fixture
def reader(checkpoint):
    with ThreadPoolExecutor(1) as ahead:
        yield Reader(read_header(checkpoint), ahead)


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((2, WIDTH), np.float32)} for _ in range(count)]


@pytest.mark.parametrize("layers", [1, 3, 12])  # of 12, the tenth comes behind the ninth
def test_layers_are_cut_as_their_weights_are_numbered_and_compute_the_same(tmp_path, checkpoint, reader, layers):
    parts = segments(chain(layers), ["y"])
    assert [[n.attributes["parts"].value[0] for n in part.references.values()] for part in parts] == [
        *([f"layers.{i}.weight"] for i in range(layers)),
        ["head.weight"],
    ]
    expected = bind(chain(layers), checkpoint, tmp_path / "whole")
    for made, feed in zip(outputs(chain(layers), reader, feeds(3), ["y"]), feeds(3), strict=True):
        np.testing.assert_allclose(made["y"], run(expected, **feed)[0], rtol=1e-5, atol=1e-5)


def test_what_no_later_layer_reads_is_forgotten(reader):
    parts, live = segments(chain(3), ["y"]), feeds(2)
    for i, part in enumerate(parts[:-1]):
        advance(part, live, part.weights(reader), parts[i + 1 :])
        assert all(len(values) == 1 for values in live)


def test_weights_can_be_exchanged(reader):
    part, feed = segments(chain(1), ["y"])[0], feeds(1)[0]
    (name,), (activation,) = part.products.keys(), part.products.values()
    assert activation == "x"
    doubled = {name: 2 * part.weights(reader)[name]}
    expected = feed["x"] @ doubled[name].T + feed["x"]
    np.testing.assert_allclose(part.run(feed, doubled, part.outputs)[part.outputs[0]], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_a_graph_of_another_type_is_computed_in_float32(reader, dtype):
    narrow = [made["y"] for made in outputs(chain(2, dtype), reader, feeds(2), ["y"])]
    wide = [made["y"] for made in outputs(chain(2), reader, feeds(2), ["y"])]
    np.testing.assert_array_equal(narrow, wide)


def test_casts_and_constants_are_widened_too():
    half = ir.DataType.FLOAT16
    x = value("x", [2])
    cast = node("Cast", [x], [2], domain="", dtypes=(half,), to=int(half))
    one = node("Constant", [], [], domain="", dtypes=(half,))
    one.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.float16(1.5)))
    total = node("Add", [cast.outputs[0], one.outputs[0]], [2], domain="", dtypes=(half,))
    built = model([x], total.outputs, cast, one, total)
    widen(built.graph)
    assert {v.dtype for n in built.graph for v in n.outputs} == {ir.DataType.FLOAT}
    assert cast.attributes["to"].value == int(ir.DataType.FLOAT)
    assert one.attributes["value"].value.dtype == ir.DataType.FLOAT


def test_a_weight_that_is_read_in_two_layers_is_there_in_both(reader):
    x = value("x", ["batch", WIDTH])
    shared, other = weight("layers.0.weight", WIDTH, WIDTH), weight("layers.1.weight", WIDTH, WIDTH)
    first = node("Linear", [x, shared.outputs[0]], ["batch", WIDTH])
    second = node("Linear", [first.outputs[0], other.outputs[0]], ["batch", WIDTH])
    third = node("Linear", [second.outputs[0], shared.outputs[0]], ["batch", WIDTH])
    built, feed = model([x], third.outputs, shared, other, first, second, third), feeds(1)[0]
    third.outputs[0].name = "y"
    a, b = (np.concatenate([*reader.rows(f"layers.{i}.weight")]) for i in (0, 1))
    (made,) = outputs(built, reader, [feed], ["y"])
    np.testing.assert_allclose(made["y"], feed["x"] @ a.T @ b.T @ a.T, rtol=1e-4, atol=1e-4)


@pytest.fixture
def tiny(captured) -> ir.Model:
    """The embedded model's graph for the CPU."""
    made = ir.load(captured)
    optimize(made, "cpu")
    return made


@pytest.fixture
def weights():
    with ThreadPoolExecutor(1) as ahead:
        yield Reader(read_logical(TINY), ahead)


def test_the_embedded_model_computes_layer_by_layer_what_it_computes_at_once(built, tiny, weights):
    model, rows = tiny, np.arange(64, dtype=np.int64).reshape(2, 32) % 50
    feed = layerwise.feeds(model.graph, rows)
    session = open_scoring(built.dist("tiny-fp32-cpu") / "model.onnx")
    (whole,) = session.run(["logits"], {i.name: feed[0][i.name] for i in session.get_inputs()})
    (made,) = outputs(model, weights, feed, ["logits"])
    np.testing.assert_allclose(made["logits"], whole, atol=2e-5 * np.abs(whole).max())


@pytest.mark.parametrize(
    "name", ["qwen3_moe", "mamba"]
)  # sizes are computed in one layer and read in others; a state is narrower on CPUs
def test_architectures_whose_layers_share_more_than_a_tensor_of_floats(twin, tmp_path, name):
    checkpoint, graph = twin(name)
    ids = np.arange(24, dtype=np.int64).reshape(2, 12) % 50
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.tile(np.arange(12), (2, 1))}
    (made,) = reference_outputs(graph, checkpoint, [feed])
    whole = Runner(lowered(graph, checkpoint, tmp_path, "portable"))
    logits, _ = whole(ids, np.ones_like(ids), whole.empty(2))
    np.testing.assert_allclose(made["logits"], logits, atol=2e-5 * np.abs(logits).max())


def test_channels_are_scaled_and_what_comes_before_takes_it_back(tiny, weights):
    model, rows = tiny, np.arange(64, dtype=np.int64).reshape(2, 32) % 50
    live, parts = layerwise.feeds(model.graph, rows), segments(model, ["logits"])
    advance(parts[0], live, parts[0].weights(weights), parts[1:])
    layer = parts[1]
    before = layer.weights(weights)
    after, taps = {**before}, sorted({*layer.products.values()})
    grams = {
        n: x.reshape(-1, x.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        for n, x in layer.run(live[0], before, taps).items()
    }
    changed = awq.scale_channels(layer, after, {**grams}, dict.fromkeys(layer.products, (4, 32, True)))
    different = {name for name in before if not np.array_equal(before[name], after[name])}
    assert len(changed) == 3 and changed < different  # two norms, and the product that the gate multiplies
    assert len(different) == 6  # and packed q, k and v; the gate; the last product
    for name, made in layer.run(live[0], after, layer.outputs).items():
        expected = layer.run(live[0], before, layer.outputs)[name]
        np.testing.assert_allclose(made, expected, atol=1e-5 * np.abs(expected).max())
