"""How far two builds are the same: graphs made by hand, tensors, and files of both."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from graphs import model, node, value, write_safetensors

from onnxmake.model import distance, sameness
from onnxmake.model.sameness import DIFFERENT, GRAPH_EQUAL, NUMERICALLY_EQUAL

INT64 = ir.DataType.INT64


def held(name, array):
    return ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )


def made(swap=False, weight=None, axis=-1, op="Softmax", extra=False, rank=2, opset=21, names="a", output="y"):
    """y = softmax(relu(x) @ w + |x|): three branches that may stand in another order, under other names."""
    x, w = value("x", ["n"] + [2] * (rank - 1)), held("w", np.eye(2, dtype=np.float32) if weight is None else weight)
    relu, size = node("Relu", [x], ["n", 2], domain=""), node("Abs", [x], ["n", 2], domain="")
    product = node("MatMul", [relu.outputs[0], w], ["n", 2], domain="")
    total = node("Add", [product.outputs[0], size.outputs[0]], ["n", 2], domain="")
    last = node(op, [total.outputs[0]], ["n", 2], domain="", axis=axis)
    more = [node("Neg", [last.outputs[0]], ["n", 2], domain="")] if extra else []
    ends = more[0] if more else last
    order = [size, relu, product, total, last] if swap else [relu, product, size, total, last]
    for i, one in enumerate(order):
        one.name = f"{names}{i}"
        one.outputs[0].name = f"{names}{i}.out"
    ends.outputs[0].name = output
    graph = ir.Graph(
        [x], [ends.outputs[0]], nodes=[*order, *more], initializers=[w], opset_imports={"": opset}, name=names
    )
    return ir.Model(graph, ir_version=10)


def test_the_same_graph_in_another_order_under_other_names_is_equal():
    assert sameness.of_models(made(), made(swap=True, names="b")) == (GRAPH_EQUAL, "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"axis": 0}, "node Softmax_4 of the first: the other has another axis"),
        ({"op": "Hardmax"}, "node Softmax_4 of the first: the other has no such node"),
        ({"extra": True}, "node Neg_5 of the second: the other has no such node"),
        ({"weight": np.eye(3, dtype=np.float32)}, "initializer w: w FLOAT [2,2] and w FLOAT [3,3]"),
        ({"rank": 3}, "input x: x FLOAT [n,2] and x FLOAT [n,2,2]"),
        ({"output": "z"}, "output y: y FLOAT [n,2] and z FLOAT [n,2]"),
        ({"opset": 22}, "operator sets: {'': 21} and {'': 22}"),
    ],
)
def test_the_first_difference_of_two_graphs_is_named(change, said):
    verdict, detail = sameness.of_models(made(), made(**change, swap="axis" not in change))
    assert (verdict, detail) == (DIFFERENT, said)


def test_a_node_that_reads_something_else_is_named_and_not_those_behind_it():
    one, other = made(), made()
    (add,) = (n for n in other.graph if n.op_type == "Add")
    (relu,) = (n for n in other.graph if n.op_type == "Relu")
    add.replace_input_with(1, relu.outputs[0])
    assert sameness.of_models(one, other) == (DIFFERENT, "node Abs_2 of the first: the other has no such node")
    one, other = made(), made()
    (add,) = (n for n in other.graph if n.op_type == "Add")
    add.replace_input_with(1, add.inputs[0])
    add.replace_input_with(0, next(n for n in other.graph if n.op_type == "Abs").outputs[0])
    assert sameness.of_models(one, other) == (DIFFERENT, "node Add_3 of the first: the other reads something else")


def branching(number):
    """y = x + number, or x, within an If."""
    x, flag = value("x", [1]), value("flag", [], ir.DataType.BOOL)
    branches = []
    for constant in (number, 0.0):
        held_inside = held("c", np.array([constant], np.float32))
        add = node("Add", [x, held_inside], [1], domain="")
        branches.append(ir.Graph([], add.outputs, nodes=[add], initializers=[held_inside], name="branch"))
    choose = node("If", [flag], [1], domain="", then_branch=branches[0], else_branch=branches[1])
    return model([x, flag], choose.outputs, choose)


def test_graphs_within_a_node_count():
    ends = [branching(number) for number in (1.0, 1.0, 2.0, 1.0)]
    for one in ends:
        one.graph.outputs[0].name = "y"
    assert sameness.of_models(*ends[:2]) == (GRAPH_EQUAL, "")
    verdict, detail = sameness.of_models(ends[3], ends[2])
    assert verdict == DIFFERENT and detail == "node If_0 of the first: the other has another then_branch"


@pytest.mark.parametrize(
    ("dtype", "by", "verdict"),
    [
        ("float32", 1e-6, NUMERICALLY_EQUAL),
        ("float32", 1e-3, DIFFERENT),
        ("float16", 1e-3, NUMERICALLY_EQUAL),
        ("float16", 1e-1, DIFFERENT),
        ("bfloat16", 1e-2, NUMERICALLY_EQUAL),
        ("bfloat16", 1e-1, DIFFERENT),
        ("float32", np.nan, DIFFERENT),
        ("float32", np.inf, DIFFERENT),
        ("uint8", 1, DIFFERENT),
        ("int64", 1, DIFFERENT),
    ],
)
def test_floats_may_differ_by_rounding_and_integers_not_at_all(dtype, by, verdict):
    first = np.full(distance.BLOCK + 2, 1.5 if "float" in dtype else 3).astype(dtype)
    second = first.copy()
    second[-1] = np.float64(first[-1]) + by  # in the second block
    found, said = sameness.of_tensors([("same", first, first), ("w", first, second)])
    assert found == verdict and said.startswith(f"tensor w: 1 of {first.size:,} values differ")
    if "float" in dtype:
        apart = np.abs(np.float64(second[-1]) - 1.5)
        assert said.endswith(f", by {'inf' if not np.isfinite(apart) else f'{apart:.3g}'} at most, of values up to 1.5")
    assert sameness.of_tensors([("w", first, first)]) == (GRAPH_EQUAL, "")


def test_what_is_no_number_in_both_is_the_same_and_the_largest_difference_is_told():
    one = np.array([np.nan, 1, -np.inf, 4], np.float32)
    assert sameness.of_tensors([("w", one, one.copy())]) == (GRAPH_EQUAL, "")
    near, nearer = one.copy(), one.copy()
    near[1], nearer[1] = 1 + 2e-6, 1 + 1e-6
    verdict, said = sameness.of_tensors([("a", one, nearer), ("b", one, near), ("c", one, nearer)])
    assert verdict == NUMERICALLY_EQUAL and said.startswith("tensor b: 1 of 4 values differ, by 2.03e-06 at most")


def test_four_bits_in_a_graph_are_compared_as_integers():
    codes = np.array([[1, 2], [3, 4]]).astype(ml_dtypes.uint4)
    other = np.array([[1, 2], [3, 5]]).astype(ml_dtypes.uint4)
    assert sameness.of_tensors([("q", codes, other)]) == (DIFFERENT, "tensor q: 1 of 4 values differ")


@pytest.fixture
def folders(tmp_path):
    for side in ("first", "second"):
        (tmp_path / side).mkdir()
    return tmp_path / "first", tmp_path / "second"


def compared(folders, *files):
    return sameness.compare(*map(str, folders), files)


def saved(folder, weight, **how):
    ir.save(made(weight=weight, **how), folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)


def test_tensors_beside_a_graph_are_the_graphs(folders):
    eye = np.eye(2, dtype=np.float32)
    for folder, scale in zip(folders, (1, 1 + 1e-6)):
        saved(folder, eye * np.float32(scale))
    found = compared(folders, "model.onnx.data")
    said = "tensor w: 2 of 4 values differ, by 9.54e-07 at most, of values up to 1"
    assert found == {"model.onnx.data": (NUMERICALLY_EQUAL, said)}
    saved(folders[1], eye, names="other")
    assert compared(folders, "model.onnx") == {"model.onnx": (GRAPH_EQUAL, "")}
    saved(folders[1], eye * 2, names="other")
    found = compared(folders, "model.onnx", "model.onnx.data")
    assert {verdict for verdict, _ in found.values()} == {DIFFERENT} and len(set(found.values())) == 1


def test_tensors_of_a_safetensors_file_are_compared_by_name(folders):
    codes, scales = np.array([[1.0, 2.0]], np.float16), np.ones((2, 3), np.float32)
    for folder, tensors in zip(folders, ({"q": codes, "s": scales}, {"s": scales, "q": codes})):
        write_safetensors(folder / "quantized.safetensors", tensors)
    assert compared(folders, "quantized.safetensors") == {"quantized.safetensors": (GRAPH_EQUAL, "")}
    write_safetensors(folders[1] / "quantized.safetensors", {"q": codes, "s": scales[:1]})
    ((verdict, said),) = compared(folders, "quantized.safetensors").values()
    assert verdict == DIFFERENT and said == "tensor s: ('F32', (2, 3)) and ('F32', (1, 3))"
    write_safetensors(folders[1] / "quantized.safetensors", {"q": codes, "s": scales, "t": scales})
    ((verdict, said),) = compared(folders, "quantized.safetensors").values()
    assert verdict == DIFFERENT and said == "tensor t: absent and ('F32', (2, 3))"


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [
        (b"abc", b"abd", 2),
        (b"ab", b"abc", 2),
        (b"", b"a", 0),
        (b"x" * sameness.BLOCK + b"1", b"x" * (sameness.BLOCK + 1), sameness.BLOCK),
    ],
)
def test_of_any_other_file_it_is_said_where_it_parts(folders, one, other, at):
    for folder, text in zip(folders, (one, other)):
        (folder / "notes.txt").write_bytes(text)
    assert compared(folders, "notes.txt") == {"notes.txt": (DIFFERENT, f"from byte {at:,} on")}
