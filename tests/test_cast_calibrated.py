"""float16 but for what would overflow there: which nodes stay float32, what is computed, and that nothing else changes."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import FLOAT, bind, load_pass, model, node, run, value, weight, write_safetensors

from onnxmake.model import canonical
from onnxmake.model.graph import nodes

HALF, BOOL = ir.DataType.FLOAT16, ir.DataType.BOOL
CAST, CALIBRATED = load_pass("cast"), load_pass("cast_calibrated")
WIDTH = 16


def deep_model(output: str = "y") -> ir.Model:
    """x -> a product, `up`, of which comes a large `wide`, a norm of its sum with x, a product of that; `output`: y, or wide, too."""
    x, shape = value("x", ["batch", WIDTH]), ["batch", WIDTH]
    stored = {name: weight(name, WIDTH, WIDTH) for name in ("up", "down")} | {"norm": weight("norm", WIDTH)}
    up, down, norm = (stored[name].outputs[0] for name in ("up", "down", "norm"))
    wide = node("Linear", [x, up], shape)
    total = node("Add", [wide.outputs[0], x], shape, domain="")
    normed = node("RMSNorm", [total.outputs[0], norm], shape, epsilon=1e-6)
    y = node("Linear", [normed.outputs[0], down], shape)
    y.outputs[0].name, wide.outputs[0].name = "y", "wide"
    outputs = [y.outputs[0], *([wide.outputs[0]] if output == "wide" else [])]
    return model([x], outputs, *stored.values(), wide, total, normed, y)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "calibration.npz", x=rng.standard_normal((4, WIDTH)).astype(np.float32))
    np.savez(tmp_path / "small.npz", x=rng.standard_normal((4, WIDTH)).astype(np.float32) * 1e-3)
    w = {name: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in ("up", "down")}
    w |= {"up": w["up"] * 12_000, "norm": rng.standard_normal(WIDTH).astype(np.float32)}
    write_safetensors(tmp_path / "checkpoint" / "model.safetensors", w)
    return tmp_path


def made(graph: ir.Model, folder: Path, file: str = "calibration.npz", samples: int = 4) -> ir.Model:
    canonical.save(graph, folder / "model.onnx")
    (folder / "made").mkdir(exist_ok=True)
    CALIBRATED.run(folder, folder / "made", CALIBRATED.Options("cpu", file, samples=samples))
    return ir.load(folder / "made" / "model.onnx")


def computed(graph: ir.Model, folder: Path, name: str) -> list[np.ndarray]:
    x = np.load(folder / "calibration.npz")["x"]
    dtype = graph.graph.inputs[0].dtype.numpy()
    return run(bind(graph, folder / "checkpoint", folder / name), x=x.astype(dtype))


def test_what_overflows_stays_float32_and_nothing_else(folder, capfd):
    built = made(deep_model(), folder)
    types = {n.op_type: {v.dtype for v in n.outputs} for n in built.graph if n.op_type in ("Add", "RMSNorm")}
    assert types == {"Add": {FLOAT}, "RMSNorm": {FLOAT}}
    assert [n.outputs[0].dtype for n in nodes(built.graph, "Linear")] == [FLOAT, HALF]
    assert {n.attributes["parts"].value[0]: n.outputs[0].dtype for n in nodes(built.graph, "Weight")} == {
        "up": FLOAT,
        "norm": FLOAT,
        "down": HALF,
    }
    assert {v.dtype for v in (*built.graph.inputs, *built.graph.outputs)} == {HALF}
    assert [n.attributes["to"].value for n in nodes(built.graph, "Cast")] == [
        FLOAT,
        HALF,
    ]  # x, which both read; the norm's
    printed = capfd.readouterr().out
    assert "wide of Linear is up to" not in printed and "of Linear is up to" in printed and "of Add is up to" in printed


@pytest.mark.parametrize("output", ["y", "wide"])
def test_outputs_are_near_float32_and_have_the_type_of_the_rest(folder, output):
    exact = computed(deep_model(output), folder, "exact")
    near = computed(made(deep_model(output), folder), folder, "near")
    assert [o.dtype for o in near] == [np.float16] * len(exact)
    np.testing.assert_allclose(near[0], exact[0], atol=0.01 * abs(exact[0]).max())
    if output == "wide":  # what cannot be handed out as float16 is infinite there
        small = np.abs(exact[1]) < 60_000
        assert not np.isfinite(near[1]).all()
        np.testing.assert_allclose(near[1][small], exact[1][small], atol=50)


def test_without_large_values_it_is_a_cast(folder):
    plain = deep_model()
    CAST.rewrite(plain, CAST.Options("fp16"))
    canonical.save(plain, folder / "plain.onnx")
    made(deep_model(), folder, "small.npz")
    assert (folder / "made" / "model.onnx").read_bytes() == (folder / "plain.onnx").read_bytes()


def test_what_hides_other_values_is_not_large(folder):
    """A mask adds the lowest float32; it is rounded to the lowest float16, as cast does."""
    built = deep_model()
    first = nodes(built.graph, "Linear")[0]
    lowest = ir.tensor(np.array(np.finfo(np.float32).min), name="lowest")
    hidden = ir.Value(name="lowest", const_value=lowest, shape=ir.Shape([]), type=ir.TensorType(FLOAT))
    built.graph.register_initializer(hidden)
    masked = node("Add", [first.inputs[0], hidden], ["batch", WIDTH], domain="")
    masked.outputs[0].name = "masked"
    built.graph.insert_before(first, masked)
    built.graph.outputs.append(masked.outputs[0])
    result = made(built, folder, "small.npz").graph
    assert next(v for v in result.outputs if v.name == "masked").dtype == HALF and not nodes(result, "Cast")


def test_nan_that_is_not_taken_is_not_large(folder):
    """Where(x < x, log(-|x|), x) is x."""
    built, shape = deep_model(), ["batch", WIDTH]
    first = nodes(built.graph, "Linear")[0]
    x, plain = first.inputs[0], {"domain": ""}
    below = node("Neg", [(size := node("Abs", [x], shape, **plain)).outputs[0]], shape, **plain)
    unknown, never = node("Log", below.outputs, shape, **plain), node("Less", [x, x], shape, dtypes=[BOOL], **plain)
    taken = node("Where", [never.outputs[0], unknown.outputs[0], x], shape, **plain)
    for added in (size, below, unknown, never, taken):
        built.graph.insert_before(first, added)
    first.replace_input_with(0, taken.outputs[0])
    assert {v.dtype for n in made(built, folder, "small.npz").graph for v in n.outputs} == {HALF, BOOL}
