"""Each surgery on a graph of a few nodes: what it changes, that it finds nothing twice, and what the model computes then."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import FLOAT, load_pass, model, node, operations, run, value, weight
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmake.build import paths
from onnxmake.build.declaration import surgeries
from onnxmake.errors import PassError, TargetError
from onnxmake.model import canonical
from onnxmake.model.graph import CONTRIB

PASS, INT, HALF = load_pass("surgery"), ir.DataType.INT64, ir.DataType.FLOAT16
rng = np.random.default_rng(0)


def cut(built: ir.Model, name: str, **options) -> int:
    return PASS.rewrite(built, PASS.Options(name, **options))


def hold(built: ir.Model, **arrays: np.ndarray) -> list[ir.Value]:
    values = []
    for name, array in arrays.items():
        dtype = ir.DataType.from_numpy(array.dtype)
        tensor = ir.tensor(array, name=name)
        values.append(ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(dtype)))
        built.graph.register_initializer(values[-1])
    return values


def chain(op: str, *shape, domain: str = "", dtype: ir.DataType = FLOAT, held=None, **attributes) -> ir.Model:
    """x -> op(x, *held) = y."""
    x = value("x", shape, dtype)
    built = model([x], [])
    out = node(op, [x, *hold(built, **(held or {}))], shape, domain=domain, dtypes=(dtype,), **attributes)
    out.outputs[0].name = "y"
    built.graph.append(out)
    built.graph.outputs[:] = out.outputs
    built.graph.opset_imports[CONTRIB] = 1
    return built


def computed(built: ir.Model, folder, **inputs: np.ndarray) -> list[np.ndarray]:
    canonical.save(built, folder / "model.onnx")
    return run(folder / "model.onnx", **inputs)


def compare(make, name: str, folder, tolerance: float, **inputs: np.ndarray) -> ir.Model:
    """Before and after the surgery, which finds nothing a second time. Returns the changed model."""
    built, expected = make(), computed(make(), folder, **inputs)
    assert cut(built, name) > 0
    for one, other in zip(computed(built, folder, **inputs), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)
    assert cut(built, name) == 0
    return built


X = rng.standard_normal((3, 8)).astype(np.float32) * 2


def test_every_surgery_has_two_functions_says_what_it_does_and_is_tested():
    text = (paths.ROOT / "tests" / "test_surgery.py").read_text("utf-8")
    for name in surgeries():
        source = (paths.ROOT / "onnxmake" / "model" / "surgeries" / f"{name}.py").read_text("utf-8")
        assert source.startswith('"""') and "def before(" in source and "def after(" in source
        assert f'"{name}"' in text, name


def test_erf_to_tanh_is_near(tmp_path):
    built = compare(lambda: chain("Erf", 3, 8), "erf_to_tanh", tmp_path, 0.021, x=X)
    assert sorted(operations(built)) == ["Mul", "Tanh"]


@pytest.mark.parametrize("attributes", [{}, {"alpha": 1.0}, {"alpha": 0.5}])
def test_quick_gelu_to_sigmoid_is_the_same(tmp_path, attributes):
    built = compare(
        lambda: chain("QuickGelu", 3, 8, domain=CONTRIB, **attributes), "quick_gelu_to_sigmoid", tmp_path, 2e-6, x=X
    )
    assert {n.domain for n in built.graph} == {""}


SCALE = {"scale": np.linspace(0.5, 2, 8, dtype=np.float32)}


def norm() -> ir.Model:
    return chain("SimplifiedLayerNormalization", 3, 8, held=SCALE, axis=-1, epsilon=1e-6)


def skip_norm(outputs: int = 4) -> ir.Model:
    """x and half of it, a bias: y, and their sum as an output, too."""
    x = value("x", [3, 8])
    built = model([x], [])
    half, scale, bias = hold(built, half=np.full(8, 0.5, np.float32), bias=np.ones(8, np.float32), **SCALE)
    scale, bias = bias, scale
    other = node("Mul", [x, half], [3, 8], domain="")
    shapes = [[3, 8], [0], [0], [3, 8]][:outputs]
    inputs = [x, other.outputs[0], scale, bias]
    skip = node("SkipSimplifiedLayerNormalization", inputs, *shapes, domain=CONTRIB, epsilon=1e-6)
    for v in skip.outputs[1:3]:
        v.name = ""
    built.graph.extend([other, skip])
    kept = [v for v in skip.outputs if v.name]
    for v, name in zip(kept, "yz"):
        v.name = name
    built.graph.outputs[:] = kept
    built.graph.opset_imports[CONTRIB] = 1
    return built


@pytest.mark.parametrize("name", ["rms_norm_to_l2_norm", "rms_norm_to_primitives"])
@pytest.mark.parametrize("make", [norm, skip_norm, lambda: skip_norm(1)])
def test_rms_norms_are_taken_apart_and_compute_the_same(tmp_path, make, name):
    built = compare(make, name, tmp_path, 1e-5, x=X)
    assert {n.domain for n in built.graph} == {""} and "SimplifiedLayerNormalization" not in operations(built)


def test_rms_norms_in_float16_are_computed_in_float32_as_before(tmp_path):
    def make():
        held = {"scale": SCALE["scale"].astype(np.float16)}
        return chain("SimplifiedLayerNormalization", 3, 8, dtype=HALF, held=held, axis=-1, epsilon=1e-6)

    compare(make, "rms_norm_to_primitives", tmp_path, 4e-3, x=(X * 300).astype(np.float16))


def test_a_norm_whose_mean_is_read_stays():
    built = norm()
    inverse = built.graph.node(0)
    two = node("SimplifiedLayerNormalization", inverse.inputs, [3, 8], [3, 1], domain="", axis=-1)
    built.graph.append(two)
    built.graph.outputs[:] = two.outputs
    built.graph.remove(inverse)
    assert cut(built, "rms_norm_to_primitives") == 0


def product(*shape, bias=(4,)) -> ir.Model:
    """x times [8, 4], plus a bias on the left or the right."""
    x = value("x", shape)
    built = model([x], [])
    w, b = hold(
        built,
        w=rng.standard_normal((8, 4)).astype(np.float32),
        b=np.arange(np.prod(bias), dtype=np.float32).reshape(bias),
    )
    out = [*shape[:-1], 4]
    times = node("MatMul", [x, w], out, domain="")
    plus = node("Add", [b, times.outputs[0]], out, domain="")
    plus.outputs[0].name = "y"
    built.graph.extend([times, plus])
    built.graph.outputs[:] = plus.outputs
    return built


@pytest.mark.parametrize(("shape", "ops"), [((3, 8), ["Gemm"]), ((3, 1, 8), ["Reshape", "Gemm", "Reshape"])])
def test_matmul_and_add_become_gemm(tmp_path, shape, ops):
    expected = computed(product(*shape), tmp_path, x=X.reshape(shape))
    built = ir.load(tmp_path / "model.onnx")
    assert cut(built, "matmul_add_to_gemm") == 1
    assert operations(built) == ops
    np.testing.assert_allclose(computed(built, tmp_path, x=X.reshape(shape))[0], expected[0], atol=1e-5)
    assert cut(built, "matmul_add_to_gemm") == 0


@pytest.mark.parametrize(("shape", "bias"), [(("n", 2, 8), (4,)), ((3, 8), (3, 4)), ((3, 8), (1,))])
def test_what_gemm_cannot_say_stays(shape, bias):
    assert cut(product(*shape, bias=bias), "matmul_add_to_gemm") == 0


@settings(max_examples=20, deadline=None)
@given(st.booleans(), st.booleans(), st.booleans())
def test_gemm_becomes_matmul_and_add(tmp_path_factory, left, right, biased):
    def make():
        x = value("x", [8, 3] if left else [3, 8])
        built = model([x], [])
        w = np.linspace(-1, 1, 32, dtype=np.float32).reshape((4, 8) if right else (8, 4))
        held = hold(built, w=w, **({"b": np.arange(4, dtype=np.float32)} if biased else {}))
        out = node("Gemm", [x, *held], [3, 4], domain="", transA=int(left), transB=int(right))
        out.outputs[0].name = "y"
        built.graph.append(out)
        built.graph.outputs[:] = out.outputs
        return built

    x = np.ascontiguousarray(X.T) if left else X
    built = compare(make, "gemm_to_matmul_add", tmp_path_factory.mktemp("gemm"), 1e-5, x=x)
    assert operations(built).count("Add") == biased


def test_gemm_with_factors_stays():
    built = chain("Gemm", 8, 8, held={"w": np.eye(8, dtype=np.float32)}, alpha=0.5)
    assert cut(built, "gemm_to_matmul_add") == 0


def test_a_mask_is_softened_wherever_it_is_written(tmp_path):
    lowest = float(np.finfo(np.float32).min)
    built = chain("Add", 3, 8, held={"mask": np.array([0, lowest] * 4, np.float32)})
    size = hold(built, size=np.array([3, 8]))[0]
    filled = node("ConstantOfShape", [size], [3, 8], domain="", value=ir.tensor(np.array([-np.inf], np.float32)))
    single = node("Constant", [], [], domain="", value=ir.tensor(np.float32(lowest)))
    last = built.graph.node(0)
    less = node("Max", [last.outputs[0], filled.outputs[0], single.outputs[0]], [3, 8], domain="")
    last.outputs[0].name, less.outputs[0].name = "sum", "y"
    built.graph.extend([filled, single, less])
    built.graph.outputs[:] = less.outputs
    assert cut(built, "soften_mask", value=-500.0) == 3
    out = computed(built, tmp_path, x=X)[0]
    np.testing.assert_allclose(out, np.maximum(X + np.array([0, -500] * 4), -500), atol=1e-4)
    assert cut(built, "soften_mask") == 0


def test_quantising_and_back_is_removed(tmp_path):
    x = value("x", [3, 8])
    built = model([x], [])
    scale, zero = hold(built, scale=np.float32(0.5).reshape(()), zero=np.uint8(128).reshape(()))
    to = node("QuantizeLinear", [x, scale, zero], [3, 8], domain="", dtypes=(ir.DataType.UINT8,))
    back = node("DequantizeLinear", [to.outputs[0], scale, zero], [3, 8], domain="")
    out = node("Neg", back.outputs, [3, 8], domain="")
    built.graph.extend([to, back, out])
    built.graph.outputs[:] = out.outputs
    assert cut(built, "remove_qdq") == 1 and operations(built) == ["Neg"] and not built.graph.initializers
    np.testing.assert_array_equal(computed(built, tmp_path, x=X)[0], -X)
    assert cut(built, "remove_qdq") == 0


def two() -> ir.Model:
    """ids and kinds [batch, sequence] -> their sum, and twice that."""
    ids, kinds = (value(name, ["batch", "sequence"], INT) for name in ("ids", "kinds"))
    total = node("Add", [ids, kinds], ["batch", "sequence"], domain="", dtypes=(INT,))
    twice = node("Add", [total.outputs[0]] * 2, ["batch", "sequence"], domain="", dtypes=(INT,))
    total.outputs[0].name, twice.outputs[0].name = "total", "twice"
    return model([ids, kinds], [total.outputs[0], twice.outputs[0]], total, twice)


def border(built: ir.Model) -> list[list[str]]:
    return [[v.name for v in values] for values in (built.graph.inputs, built.graph.outputs)]


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("rename_inputs", {"names": {"ids": "tokens"}}, [["tokens", "kinds"], ["total", "twice"]]),
        ("rename_inputs", {"names": {"ids": "kinds", "kinds": "ids"}}, [["kinds", "ids"], ["total", "twice"]]),
        ("rename_outputs", {"names": {"twice": "y"}}, [["ids", "kinds"], ["total", "y"]]),
        ("reorder_inputs", {"values": ("kinds", "ids")}, [["kinds", "ids"], ["total", "twice"]]),
        ("remove_inputs", {"values": ("kinds",)}, [["ids"], ["total", "twice"]]),
        ("remove_outputs", {"values": ("total",)}, [["ids", "kinds"], ["twice"]]),
        ("remove_outputs", {"values": ("twice",)}, [["ids", "kinds"], ["total"]]),
    ],
)
def test_inputs_and_outputs_are_what_a_surgery_says(tmp_path, name, options, left):
    built = two()
    assert cut(built, name, **options) == max(1, len(options.get("names", ())))
    assert border(built) == left
    given = np.array([[1, 2]])
    inputs = [
        np.zeros_like(given) if v.name == "kinds" and name != "rename_inputs" else given for v in built.graph.inputs
    ]
    out = dict(zip(left[1], computed(built, tmp_path, **dict(zip(left[0], inputs)))))
    total = given * (2 if name == "rename_inputs" else 1)
    for made, value_ in out.items():
        assert value_.tolist() == (total if made == "total" else total * 2).tolist()


def test_an_input_without_users_just_goes():
    x, unused = value("x", ["n"]), value("unused", ["m"])
    out = node("Neg", [x], ["n"], domain="")
    built = model([x, unused], out.outputs, out)
    assert cut(built, "remove_inputs", values=("unused",)) == 1 and operations(built) == ["Neg"]


def test_inner_values_become_outputs(tmp_path):
    built = two()
    built.graph.outputs[:] = built.graph.outputs[1:]
    canonical.save(built, tmp_path / "model.onnx")
    built = ir.load(tmp_path / "model.onnx")
    assert cut(built, "expose_outputs", values=("Add_0", "Add_0.0")) == 1
    assert cut(built, "expose_outputs", values=("Add_0.0", "Add_0")) == 0
    twice, total = computed(built, tmp_path, ids=np.array([[1]]), kinds=np.array([[2]]))
    assert (total.item(), twice.item()) == (3, 6)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("rename_inputs", {"names": {"idz": "x"}}, "There is no input 'idz'.*Did you mean 'ids'"),
        ("rename_inputs", {"names": {"ids": "total"}}, "Two values would be named 'total'"),
        ("rename_outputs", {"names": {"total": "y", "twice": "y"}}, "Two values would be named 'y'"),
        ("rename_inputs", {}, "rename_inputs needs names.*Add names = "),
        ("erf_to_tanh", {"values": ("x",)}, "erf_to_tanh takes no values.*Remove values"),
        ("reorder_inputs", {"values": ("ids",)}, "does not name each input once.*ids, kinds"),
        ("remove_inputs", {"values": ("ids", "kinds")}, "would lose the size batch of ids"),
        ("remove_outputs", {"values": ("total", "twice")}, "would leave no output"),
        ("expose_outputs", {"values": ("totl",)}, "No value or node is named 'totl'.*Did you mean 'total'"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, text):
    built = two()
    with pytest.raises(TargetError, match=f"(?s){text}"):
        cut(built, name, **options)
    assert border(built) == border(two())


def test_an_order_that_there_is_changes_nothing():
    assert cut(two(), "reorder_inputs", values=("ids", "kinds")) == 0


@pytest.mark.parametrize("name", ["rename_inputs", "rename_outputs", "remove_inputs", "remove_outputs"])
def test_a_decoder_keeps_its_inputs_and_outputs(name):
    past = value("past_key_values.0.key", ["n"])
    out = node("Neg", [past], ["n"], domain="")
    option = {"names": {"a": "b"}} if name.startswith("rename") else {"values": ("a",)}
    with pytest.raises(PassError, match=f"{name} would change inputs or outputs of a model that generates text"):
        cut(model([past], out.outputs, out), name, **option)


def test_a_surgery_at_the_wrong_place_says_where_it_belongs():
    table, x = weight("w", 4, 4), value("x", [4, 4])
    early = node("RMSNorm", [x, table.outputs[0]], [4, 4])
    with pytest.raises(PassError, match="(?s)surgery erf_to_tanh came before optimize.*RMSNorm.*behind optimize"):
        cut(model([x], early.outputs, table, early), "erf_to_tanh")
    table, x = weight("w", 4, 4), value("x", [4, 4])
    linear = node("Linear", [x, table.outputs[0]], [4, 4])
    built = model([x], linear.outputs, table, linear)
    assert cut(built, "erf_to_tanh") == 0
    with pytest.raises(PassError, match="surgery rename_inputs came before the model was packaged"):
        cut(built, "rename_inputs", names={"x": "y"})
