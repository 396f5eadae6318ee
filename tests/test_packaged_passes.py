"""Passes behind packaging, one after the other, on the embedded model: what GenAI generates then, and what is kept as it is."""

import json

import onnx_ir as ir

from onnxmake.build import paths
from onnxmake.model import step
from onnxmake.model.running import Runner

CHAIN = [
    ("fix_shapes", {"dims": {"batch": 1}}),
    ("convert_io_dtype", {"dtype": "fp16", "outputs": ["logits"]}),
    ("upgrade_opset", {"opset": 23}),
    ("surgery", {"name": "quick_gelu_to_sigmoid"}),
    ("surgery", {"name": "rms_norm_to_primitives"}),
]


def generated(folder) -> list[int]:
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=40, min_length=40, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens([5, 300, 7, 12])
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0).tolist()


def test_the_embedded_model_generates_the_same_after_all_of_them(built, tmp_path):
    src = first = built.dist("tiny-fp32-cpu")
    for number, (name, options) in enumerate(CHAIN):
        out = tmp_path / str(number)
        out.mkdir()
        kept = step.run_pass(name, paths.PASSES / f"{name}.py", options, False, src, out)
        assert [path.name for path in out.iterdir()] == ["model.onnx"] and "model.onnx.data" in kept
        for file in kept:
            (out / file).write_bytes((src / file).read_bytes())
        src = out
    model = ir.load(src / "model.onnx")
    assert model.opset_imports[""] == 23 and model.graph.outputs[0].dtype == ir.DataType.FLOAT16
    assert list(model.graph.inputs[0].shape)[0] == 1
    assert {n.op_type for n in model.graph if n.domain} == {"FusedMatMul", "GroupQueryAttention"}
    assert Runner(src / "model.onnx").empty(1)[0].shape == (1, 2, 0, 64)
    assert generated(src) == generated(first)
    assert json.loads((src / "genai_config.json").read_text())["model"]["decoder"]["filename"] == "model.onnx"
