"""Numbers in place of names of sizes: of the inputs, of all that follows, and of past, sequence and total together."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import load_pass, model, node, operations, run, value, weight

from onnxmake.errors import PassError, TargetError
from onnxmake.model import canonical

PASS, INT = load_pass("fix_shapes"), ir.DataType.INT64


def fixed(built: ir.Model, **options) -> int:
    return PASS.rewrite(built, PASS.Options(**options))


def encoder() -> ir.Model:
    """x [batch, sequence, 4] -> its sum over the sequence [batch, 4], doubled; and one whose shape nothing tells."""
    x, axes = value("x", ["batch", "sequence", 4]), ir.tensor(np.array([1]), name="axes")
    at = ir.Value(name="axes", const_value=axes, shape=ir.Shape([1]), type=ir.TensorType(INT))
    total = node("ReduceSum", [x, at], ["batch", 4], domain="", keepdims=0)
    twice = node("Add", [total.outputs[0]] * 2, ["batch", 4], domain="")
    flat = node("Flatten", [x], [None, None], domain="")
    flat.outputs[0].shape = None
    built = model([x], [twice.outputs[0], flat.outputs[0]], total, twice, flat)
    built.graph.register_initializer(at)
    return built


def decoder() -> ir.Model:
    """input_ids, a mask and a past, and the keys behind it."""
    ids, mask = value("input_ids", ["batch", "sequence"], INT), value("attention_mask", ["batch", "total"], INT)
    past, new = value("past_key_values.0.key", ["batch", 2, "past", 4]), value("new", ["batch", 2, "sequence", 4])
    present = node("Concat", [past, new], ["batch", 2, "total", 4], domain="", axis=2)
    same = [node("Identity", [v], v.shape, domain="", dtypes=(INT,)) for v in (ids, mask)]
    return model([ids, mask, past, new], [v.outputs[0] for v in (present, *same)], present, *same)


def shapes(built: ir.Model) -> list[list]:
    values = (*built.graph.inputs, *(v for n in built.graph for v in n.outputs))
    return [[d if isinstance(d, int) else d.value for d in v.shape] for v in values]


@pytest.mark.parametrize("options", [{"dims": {"batch": 2, "sequence": 3}}, {"inputs": {"x": (2, 3, 4)}}])
def test_every_shape_has_numbers_and_the_model_computes_the_same(tmp_path, options):
    built, x = encoder(), np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    canonical.save(built, tmp_path / "free.onnx")
    assert fixed(built, **options) == 2
    assert shapes(built) == [[2, 3, 4], [2, 4], [2, 4], [2, 12]]
    canonical.save(built, tmp_path / "fixed.onnx")
    for one, other in zip(run(tmp_path / "free.onnx", x=x), run(tmp_path / "fixed.onnx", x=x)):
        np.testing.assert_array_equal(one, other)


def test_one_size_may_stay_free_and_what_is_fixed_already_counts_for_nothing():
    built = encoder()
    assert fixed(built, dims={"batch": 2}) == 1
    assert shapes(built)[:2] == [[2, "sequence", 4], [2, 4]]
    assert fixed(built, inputs={"x": (2, 5, 4)}) == 1
    assert fixed(built, inputs={"x": (2, 5, 4)}) == 0


def test_shapes_inside_graphs_of_nodes_are_fixed_too():
    x, whether = value("x", ["batch"]), value("whether", [], ir.DataType.BOOL)
    branches = []
    for op in ("Neg", "Abs"):
        inner = node(op, [x], ["batch"], domain="")
        branches.append(ir.Graph([], inner.outputs, nodes=[inner], opset_imports={"": 21}))
    either = node("If", [whether], ["batch"], domain="", then_branch=branches[0], else_branch=branches[1])
    assert fixed(model([x, whether], either.outputs, either), dims={"batch": 3}) == 1
    assert [list(branch.outputs[0].shape) for branch in branches] == [[3], [3]]


@pytest.mark.parametrize(
    "dims",
    [
        {"past": 7, "sequence": 1},
        {"past": 7, "total": 8},
        {"sequence": 1, "total": 8},
        {"past": 7, "sequence": 1, "total": 8},
    ],
)
def test_two_of_past_sequence_and_total_give_the_third(dims):
    built = decoder()
    assert fixed(built, dims=dims) == 4
    assert shapes(built)[:5] == [["batch", 1], ["batch", 8], ["batch", 2, 7, 4], ["batch", 2, 1, 4], ["batch", 2, 8, 4]]


@pytest.mark.parametrize(
    ("built", "options", "text"),
    [
        (encoder, {"dims": {"bacth": 1}}, "No size is named 'bacth'.*Did you mean 'batch'"),
        (encoder, {"inputs": {"y": (1,)}}, "There is no input 'y'.*Valid: x"),
        (encoder, {"inputs": {"x": (1, 2)}}, r"x = \[1, 2\] does not fit its shape \[batch, sequence, 4\]"),
        (encoder, {"inputs": {"x": (1, 2, 5)}}, r"x = \[1, 2, 5\] does not fit"),
        (encoder, {"dims": {"batch": 1}, "inputs": {"x": (2, 3, 4)}}, "The size batch is 1 and, by x, 2"),
        (decoder, {"dims": {"past": 7, "sequence": 1, "total": 9}}, "The size total is 9 and, by past and sequence, 8"),
        (decoder, {"dims": {"past": 7, "total": 7}}, "total = 7 leaves nothing beside 7"),
    ],
)
def test_what_does_not_fit_is_refused(built, options, text):
    with pytest.raises(TargetError, match=f"(?s){text}"):
        fixed(built(), **options)


def test_sizes_that_an_operator_does_not_take_are_refused():
    a, b = value("a", ["m"]), value("b", ["n"])
    total = node("Add", [a, b], ["m"], domain="")
    with pytest.raises(PassError, match="(?s)These sizes do not fit the model.*Give other sizes"):
        fixed(model([a, b], total.outputs, total), dims={"m": 2, "n": 3})


def test_a_shape_that_is_told_otherwise_than_onnx_infers_is_refused():
    x = value("x", ["m"])
    double = node("Concat", [x, x], ["m"], domain="", axis=0)
    with pytest.raises(PassError, match=r"has the shape \[2\], and ONNX infers \[4\]"):
        fixed(model([x], double.outputs, double), dims={"m": 2})


def test_a_graph_that_is_not_packaged_is_refused():
    table = weight("w", 4, 4)
    with pytest.raises(PassError, match="(?s)fix_shapes came before the model was packaged.*behind package_onnx"):
        fixed(model([value("x", ["m"])], table.outputs, table), dims={"m": 2})


@pytest.mark.parametrize(
    ("options", "text"),
    [({}, "neither dims nor inputs"), ({"dims": {"m": 0}}, "less than 1"), ({"inputs": {"x": (-1,)}}, "less than 1")],
)
def test_options_without_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        PASS.Options(**options)


def test_operators_stay():
    built = encoder()
    before = operations(built)
    fixed(built, dims={"batch": 2})
    assert operations(built) == before
