"""Another version of the standard operators: those that changed are converted, those that ONNX does not know stay."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import load_pass, model, node, operations, run, value, weight

from onnxmake.errors import PassError, TargetError
from onnxmake.model import canonical

PASS = load_pass("upgrade_opset")


def upgraded(built: ir.Model, opset: int) -> int:
    return PASS.rewrite(built, PASS.Options(opset))


def mixed(opset: int = 21) -> ir.Model:
    """A standard operator that 22 changed, ONNX Runtime's own in both domains, and constants that operators read."""
    x = value("x", ["n", 4])
    cos = node("Cos", [x], ["n", 4], domain="")
    built = model([x], [], cos)
    arrays = {"scale": np.full(4, 2, np.float32), "one": np.array([1], np.int64), "shape": np.array([-1, 2], np.int64)}
    for name, array in arrays.items():
        dtype = ir.DataType.from_numpy(array.dtype)
        kept = ir.Value(
            name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape), type=ir.TensorType(dtype)
        )
        built.graph.register_initializer(kept)
    held = built.graph.initializers
    norm = node("SimplifiedLayerNormalization", [cos.outputs[0], held["scale"]], ["n", 4], domain="", axis=-1)
    gelu = node("QuickGelu", norm.outputs, ["n", 4], domain="com.microsoft")
    mean = node("ReduceMean", [gelu.outputs[0], held["one"]], ["n", 1], domain="", keepdims=1)
    less = node("Sub", [gelu.outputs[0], mean.outputs[0]], ["n", 4], domain="")
    out = node("Reshape", [less.outputs[0], held["shape"]], ["m", 2], domain="")
    out.outputs[0].name = "y"
    built.graph.extend([norm, gelu, mean, less, out])
    built.graph.outputs[:] = out.outputs
    built.graph.opset_imports.update({"": opset, "com.microsoft": 1})
    return built


def computed(built: ir.Model, folder) -> np.ndarray:
    canonical.save(built, folder / "model.onnx")
    return run(folder / "model.onnx", x=np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4))[0]


@pytest.mark.parametrize("opset", [18, 20, 22, 23, 25])
def test_the_model_computes_the_same_in_another_version(tmp_path, opset):
    built, ops = mixed(), operations(mixed())
    expected = computed(mixed(), tmp_path)
    assert upgraded(built, opset) > 0
    assert operations(built) == ops
    np.testing.assert_array_equal(computed(built, tmp_path), expected)
    assert ir.load(tmp_path / "model.onnx").opset_imports == {"": opset, "com.microsoft": 1}


def test_scales_in_the_weights_file_are_not_read(tmp_path):
    """They may be links into the store, which no reader of ONNX's follows; ONNX's converter reads shapes and axes only."""
    x = value("x", ["n", 4])
    scale = ir.ExternalTensor(
        "model.onnx.data", 0, 4, ir.DataType.FLOAT, shape=ir.Shape([]), name="s", base_dir=str(tmp_path / "none")
    )
    held = ir.Value(name="s", const_value=scale, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
    rounded = node("QuantizeLinear", [x, held], ["n", 4], domain="", dtypes=(ir.DataType.UINT8,))
    rounded.outputs[0].name = "y"
    built = model([x], rounded.outputs, rounded)
    built.graph.register_initializer(held)
    built.graph.opset_imports[""] = 21
    assert upgraded(built, 20) == 2 and operations(built) == ["QuantizeLinear"]


def test_the_version_that_it_has_changes_nothing():
    assert upgraded(mixed(), 21) == 0


def test_a_form_that_changed_is_written_anew(tmp_path):
    """Axes of a sum became an input with 13, those of a mean with 18."""
    x = value("x", ["n", 4])
    mean = node("ReduceMean", [x], ["n"], domain="", axes=[1], keepdims=0)
    mean.outputs[0].name = "y"
    built = model([x], mean.outputs, mean)
    built.graph.opset_imports[""] = 17
    assert upgraded(built, 21) == 2
    (node_,) = [n for n in built.graph if n.op_type == "ReduceMean"]
    assert "axes" not in node_.attributes and len(node_.inputs) == 2
    np.testing.assert_allclose(computed(built, tmp_path), np.linspace(-3, 3, 12).reshape(3, 4).mean(1), atol=1e-6)


def test_operators_inside_an_operator_are_converted_too(tmp_path):
    x = value("x", ["n", 4])
    cosines = node("Cos", [x], ["n", 4], domain="")
    other = node("Neg", [x], ["n", 4], domain="")
    branches = [ir.Graph([], n.outputs, nodes=[n], opset_imports={"": 21}, name=n.op_type) for n in (cosines, other)]
    some = node("Size", [x], [], domain="", dtypes=(ir.DataType.INT64,))
    much = node("Cast", some.outputs, [], domain="", dtypes=(ir.DataType.BOOL,), to=int(ir.DataType.BOOL))
    either = node("If", much.outputs, ["n", 4], domain="", then_branch=branches[0], else_branch=branches[1])
    either.outputs[0].name = "y"
    built = model([x], either.outputs, some, much, either)
    assert upgraded(built, 23) == 5
    expected = np.cos(np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4))
    np.testing.assert_allclose(computed(built, tmp_path), expected, atol=1e-6)


def test_an_operator_without_a_form_in_an_older_version_is_named():
    x = value("x", ["n", 4])
    gelu = node("Gelu", [x], ["n", 4], domain="")
    with pytest.raises(PassError, match="Gelu has no form in opset 19: it came with opset 20"):
        upgraded(model([x], gelu.outputs, gelu), 19)
    half = node("Mish", [value("x", ["n"], ir.DataType.BFLOAT16)], ["n"], domain="", dtypes=(ir.DataType.BFLOAT16,))
    built = model(half.inputs, half.outputs, half)
    built.graph.opset_imports[""] = 22
    with pytest.raises(PassError, match="Mish has no form in opset 21"):
        upgraded(built, 21)


def test_versions_that_there_are_not_are_refused():
    with pytest.raises(TargetError, match="There is no opset 99"):
        upgraded(mixed(), 99)
    with pytest.raises(TargetError, match="loads no model of opset 28"):
        upgraded(mixed(), 28)
    with pytest.raises(ValueError, match="opset = 9 is older"):
        PASS.Options(9)


def test_a_graph_that_is_not_packaged_is_refused():
    table = weight("w", 4)
    with pytest.raises(PassError, match="upgrade_opset came before the model was packaged"):
        upgraded(model([value("x", [1])], table.outputs, table), 22)
