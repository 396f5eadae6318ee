"""Casts at the border: what comes in and goes out is of another type, what is computed is not."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import FLOAT, load_pass, model, node, operations, run, value, weight

from onnxmake.errors import PassError, TargetError
from onnxmake.model import canonical

PASS = load_pass("convert_io_dtype")
INT, HALF, INT32 = ir.DataType.INT64, ir.DataType.FLOAT16, ir.DataType.INT32


def converted(built: ir.Model, dtype: str, **options) -> int:
    return PASS.rewrite(built, PASS.Options(dtype, **options))


def look_up() -> ir.Model:
    """ids [n], x [n] -> x at ids, and that doubled."""
    ids, x = value("ids", ["n"], INT), value("x", ["n"])
    found = node("Gather", [x, ids], ["n"], domain="")
    double = node("Add", [found.outputs[0]] * 2, ["n"], domain="")
    found.outputs[0].name, double.outputs[0].name = "found", "double"
    return model([ids, x], [found.outputs[0], double.outputs[0]], found, double)


def border(built: ir.Model) -> dict[str, ir.DataType]:
    return {v.name: v.dtype for v in (*built.graph.inputs, *built.graph.outputs)}


def test_inputs_and_outputs_are_of_the_type_and_the_result_is_the_same(tmp_path):
    built = look_up()
    assert converted(built, "fp16", inputs=("x",), outputs=("*",)) == 3
    assert converted(built, "int32", inputs=("i*",)) == 1
    assert border(built) == {"ids": INT32, "x": HALF, "found": HALF, "double": HALF}
    assert sorted(operations(built)) == ["Add", "Cast", "Cast", "Cast", "Cast", "Gather"]
    assert next(n for n in built.graph if n.op_type == "Add").outputs[0].dtype == FLOAT
    canonical.save(built, tmp_path / "model.onnx")
    found, double = run(tmp_path / "model.onnx", ids=np.array([2, 0], np.int32), x=np.array([1, 2, 3.5], np.float16))
    assert found.dtype == double.dtype == np.float16
    assert found.tolist() == [3.5, 1] and double.tolist() == [7, 2]


def test_what_is_of_the_type_already_or_not_of_that_asked_for_stays():
    built = look_up()
    assert converted(built, "fp32", inputs=("x",), outputs=("*",)) == 0
    assert converted(built, "int32", inputs=("*",), only="int64") == 1
    assert converted(built, "fp16", outputs=("*",), only="bf16") == 0
    assert border(built) == {"ids": INT32, "x": FLOAT, "found": FLOAT, "double": FLOAT}


def casts(*types: ir.DataType) -> ir.Model:
    """x of the first type -> cast to each of the others."""
    x = last = value("x", ["n"], types[0])
    chain = []
    for dtype in types[1:]:
        chain.append(node("Cast", [last], ["n"], domain="", dtypes=(dtype,), to=int(dtype)))
        last = chain[-1].outputs[0]
    last.name = "y"
    return model([x], [last], *chain)


def test_there_and_back_is_not_computed():
    built = casts(INT, INT32, INT)
    negative = node("Neg", [built.graph.node(0).outputs[0]], ["n"], domain="", dtypes=(INT32,))
    built.graph.insert_before(built.graph.node(1), negative)
    built.graph.node(2).replace_input_with(0, negative.outputs[0])
    assert converted(built, "int32", inputs=("x",), outputs=("y",)) == 2
    canonical.canonicalize(built)
    assert operations(built) == ["Neg"] and border(built) == {"x": INT32, "y": INT32}


def test_what_a_narrow_type_would_lose_is_still_lost(tmp_path):
    """int64 -> int32 -> int64 is no identity: the cast inside stays."""
    built = casts(INT32, INT, INT32)
    assert converted(built, "int64", inputs=("x",)) == 1
    canonical.save(built, tmp_path / "model.onnx")
    (y,) = run(tmp_path / "model.onnx", x=np.array([2**32 + 5]))
    assert y.tolist() == [5]


def test_an_input_that_is_an_output_too_keeps_its_names(tmp_path):
    x = value("x", ["n"])
    same = node("Identity", [x], ["n"], domain="")
    same.outputs[0].name = "y"
    built = model([x], [same.outputs[0]], same)
    assert converted(built, "fp16", inputs=("x",), outputs=("y",)) == 2
    canonical.save(built, tmp_path / "model.onnx")
    assert run(tmp_path / "model.onnx", x=np.array([1.5], np.float16))[0].tolist() == [1.5]


def test_what_there_is_not_is_refused():
    with pytest.raises(TargetError, match="(?s)No output is named 'duoble'.*Did you mean 'double'"):
        converted(look_up(), "fp16", outputs=("duoble",))
    built = casts(ir.DataType.BOOL, FLOAT)
    with pytest.raises(TargetError, match="x is of type bool, and no fp16 stands for it"):
        converted(built, "fp16", inputs=("x",))
    with pytest.raises(ValueError, match="neither inputs nor outputs"):
        PASS.Options("fp16")


def test_states_and_graphs_with_references_are_refused():
    past = value("past_key_values.0.key", ["n"])
    present = node("Neg", [past], ["n"], domain="")
    built = model([past], present.outputs, present)
    with pytest.raises(PassError, match="convert_io_dtype would change past_key_values.0.key"):
        converted(built, "fp16", inputs=("*",))
    table = weight("w", 4)
    with pytest.raises(PassError, match="convert_io_dtype came before the model was packaged"):
        converted(model([value("x", [1])], table.outputs, table), "fp16", inputs=("x",))
