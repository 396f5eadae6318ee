"""Hand-made graphs for tests of passes, and a way to bind and run them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxmake.build import paths
from onnxmake.model import canonical, step, weights
from onnxmake.model.graph import DOMAIN
from onnxmake.model.lowering import lower
from onnxmake.model.safetensors import read_header

FLOAT = ir.DataType.FLOAT


def load_pass(name: str):
    return step.load_pass(name, paths.PASSES / f"{name}.py")


def value(name: str, shape, dtype: ir.DataType = FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def node(op: str, inputs, *shapes, domain: str = DOMAIN, dtypes=(), **attributes) -> ir.Node:
    out = ir.node(op, inputs, domain=domain, attributes=attributes, num_outputs=len(shapes))
    for i, (result, shape) in enumerate(zip(out.outputs, shapes)):
        result.shape, result.type, result.name = (
            ir.Shape(shape),
            ir.TensorType(dtypes[i] if dtypes else FLOAT),
            f"{op}.{id(out)}.{i}",
        )
    return out


def weight(name: str, *shape: int) -> ir.Node:
    return node("Weight", [], shape, parts=[name])


def model(inputs, outputs, *nodes: ir.Node) -> ir.Model:
    return ir.Model(ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 21, DOMAIN: 1}), ir_version=10)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """A checkpoint file of float32, float16 or, as uint16, bfloat16 arrays."""
    import json

    names = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    header, end = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(
        len(text).to_bytes(8, "little") + text + b"".join(np.ascontiguousarray(a).tobytes() for a in tensors.values())
    )
    return path


def bind(built: ir.Model, checkpoint: Path, folder: Path, device: str = "cpu") -> Path:
    """Lower what is left for `device`, bind weights from a safetensors file or folder of one, and save.

    Returns the model file.
    """
    from onnxmake.model.safetensors import read_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    lower(built.graph, device)
    canonical.canonicalize(built)
    tensors = read_checkpoint(checkpoint) if checkpoint.is_dir() else read_header(checkpoint)
    weights.bind(built, tensors, folder, "model.onnx.data", lambda done, total: None)
    canonical.save(built, folder / "model.onnx")
    return folder / "model.onnx"


def run(file: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})


def operations(built: ir.Model) -> list[str]:
    return [n.op_type for n in built.graph]
