"""Binding weights: every float type to every other, in blocks, at aligned places, and never a bad value."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from graphs import FLOAT, bind, load_pass, model, node, run, value, weight, write_safetensors

from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model import reader
from onnxmake.model.casting import TYPES


def add_graph(*shape: int) -> ir.Model:
    x = value("x", shape)
    add = node("Add", [x, (w := weight("w", *shape)).outputs[0]], shape, domain="")
    add.outputs[0].name = "y"
    return model([x], [add.outputs[0]], w, add)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_a_weight_of_any_float_type_is_read_exactly(tmp_path, stored):
    values = (
        np.random.default_rng(0).standard_normal((7, 9)).astype(ml_dtypes.bfloat16 if stored == "bfloat16" else stored)
    )
    raw = values.view(np.uint16) if stored == "bfloat16" else values
    file = bind(add_graph(7, 9), write_safetensors(tmp_path / "m.safetensors", {"w": raw}), tmp_path / "out")
    np.testing.assert_array_equal(run(file, x=np.zeros((7, 9), np.float32))[0], values.astype(np.float32))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_cast_rounds_each_weight_once_from_the_checkpoint(tmp_path, dtype):
    values = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)
    built, cast = add_graph(7, 9), load_pass("cast")
    assert cast.rewrite(built, cast.Options(dtype)) == 3
    assert cast.rewrite(built, cast.Options(dtype)) == 0
    file = bind(built, write_safetensors(tmp_path / "m.safetensors", {"w": values}), tmp_path / "out")
    (bound,) = ir.load(file).graph.initializers.values()
    expected = values.astype({"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[dtype])
    np.testing.assert_array_equal(bound.const_value.numpy().view(np.uint16), expected.view(np.uint16))
    assert {v.dtype for v in (*built.graph.inputs, *built.graph.outputs)} == {TYPES[dtype]}


def test_a_value_too_large_for_float16_is_refused(tmp_path):
    built, cast = add_graph(1, 2), load_pass("cast")
    cast.rewrite(built, cast.Options("fp16"))
    with pytest.raises(UnsupportedError, match="w does not fit float16"):
        bind(
            built,
            write_safetensors(tmp_path / "m.safetensors", {"w": np.array([[1, 70000]], np.float32)}),
            tmp_path / "out",
        )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, poison):
    with pytest.raises(CheckpointError, match="Tensor w holds NaN or infinity"):
        bind(
            add_graph(1, 2),
            write_safetensors(tmp_path / "m.safetensors", {"w": np.array([[1, poison]], np.float32)}),
            tmp_path / "out",
        )


def test_blocks_smaller_than_a_tensor_give_the_same_bytes(tmp_path, monkeypatch):
    source = write_safetensors(
        tmp_path / "m.safetensors", {"w": np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)}
    )

    def linear() -> ir.Model:
        x = value("x", ["batch", 1, 64])
        y = node("Linear", [x, (w := weight("w", 300, 64)).outputs[0]], ["batch", 1, 300])
        y.outputs[0].name = "logits"
        built, rtn = model([x], [y.outputs[0]], w, y), load_pass("quantize_rtn")
        assert rtn.rewrite(built, rtn.Options(symmetric=False)) == 1
        return built

    whole = bind(linear(), source, tmp_path / "whole").with_name("model.onnx.data").read_bytes()
    monkeypatch.setattr(reader, "BLOCK", 7 * 64 * 4)
    assert bind(linear(), source, tmp_path / "parts").with_name("model.onnx.data").read_bytes() == whole
    assert len(whole) > 0


def test_parts_are_concatenated_and_an_offset_is_added(tmp_path):
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(3, dtype=np.float32).reshape(1, 3) + 10
    x = value("x", [3, 3])
    both = node("Weight", [], [3, 3], parts=["a", "b"], offset=1.0)
    add = node("Add", [x, both.outputs[0]], [3, 3], domain="")
    file = bind(
        model([x], [add.outputs[0]], both, add),
        write_safetensors(tmp_path / "m.safetensors", {"a": first, "b": second}),
        tmp_path / "out",
    )
    np.testing.assert_array_equal(run(file, x=np.zeros((3, 3), np.float32))[0], np.concatenate([first, second]) + 1)


def test_large_tensors_start_at_pages_and_all_at_cache_lines(tmp_path):
    x = value("x", [64, 64])
    parts = [weight("small", 64), weight("large", 64, 64)]
    first = node("Add", [x, parts[0].outputs[0]], [64, 64], domain="")
    second = node("Add", [first.outputs[0], parts[1].outputs[0]], [64, 64], domain="")
    source = write_safetensors(
        tmp_path / "m.safetensors", {"small": np.ones(64, np.float32), "large": np.ones((64, 64), np.float32)}
    )
    tensors = {
        n: v.const_value
        for n, v in ir.load(
            bind(model([x], [second.outputs[0]], *parts, first, second), source, tmp_path / "out")
        ).graph.initializers.items()
    }
    assert tensors["large"].offset % 4096 == 0 and tensors["small"].offset % 64 == 0
    assert tensors["large"].dtype == FLOAT
