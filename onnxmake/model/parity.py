"""Does a model compute what Transformers computes: a prompt at once, token by token, and a padded batch.

{"folder", "names", "devices"} -> name -> device -> {"result": errors} | {"refused"} | {"failed"}, over twins as sweep.py
makes them; all devices' graphs are run by the CPU provider, and the CPU's once more by GenAI for "genai", and with weights
rounded to 4 bits for "int4".
{"folder", "graph", "device"} -> errors of one twin's graph after a target's passes.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model import canonical
from onnxmake.model.blocks import quantize
from onnxmake.model.direct import bind, build
from onnxmake.model.emulate import rounded_checkpoint, with_float_activations
from onnxmake.model.graph import nodes
from onnxmake.model.greedy import generates
from onnxmake.model.isolated import isolated
from onnxmake.model.lowering import lower
from onnxmake.model.optimize import optimize
from onnxmake.model.options import BlockOptions
from onnxmake.model.rounding import HALVES, round_results
from onnxmake.model.running import computed, wanted
from onnxmake.model.serve import serve
from onnxmake.model.stored import FILE

SECONDS = 240.0
Outputs = Mapping[str, np.ndarray]  # [rows, channels] by name


def _errors(made: Outputs, right: Outputs) -> dict[str, float]:
    """The largest difference of each, relative to the largest value; infinite where the model computes NaN.

    A pass may have added or removed outputs.
    """
    errors = {
        name: np.abs(made[name] - right[name]).max() / np.abs(right[name]).max() for name in made if name in right
    }
    return {name: float(error) if np.isfinite(error) else float("inf") for name, error in errors.items()}


def _losses(made: Outputs, right: Outputs) -> dict[str, float]:
    """The error that half of the rows keep: where rounding lets a router choose another expert, a few rows are far off."""
    rows = {
        name: np.abs(made[name] - right[name]).max(-1) / np.abs(right[name]).max() for name in made if name in right
    }
    return {name: float(np.median(np.nan_to_num(row, nan=np.inf))) for name, row in rows.items()}


def compare(file: Path, arrays: Mapping[str, np.ndarray], padded: bool = True) -> dict[str, float]:
    """Errors of a float32 model: of each output of an encoder; of a decoder's logits in prefill, decode and a padded batch."""
    return _errors(computed(file, arrays, padded), wanted(arrays))


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def _compare(folder: Path, device: str) -> dict[str, float]:
    graph, arrays = folder / "graph.onnx", _arrays(folder / "expected.npz")
    if device == "int4":
        return _quantised(folder)
    if device == "genai":
        return generates(graph, folder, folder / device, arrays)
    return compare(build(graph, folder, folder / device, device), arrays, padded=device == "portable")


def _passed(graph: str) -> ir.Model:
    """The graph that passes made, without integer activations: they would hide what is looked for."""
    model = ir.load(graph)
    for node in nodes(model.graph, "MatMulNBits", "QMoE"):
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    with_float_activations(model.graph)
    return model


def check(folder: str, graph: str, device: str) -> dict[str, float]:
    """Compare the graph that a target's passes made of the twin in `folder` with Transformers, or, if it is quantised, with
    the portable graph over weights rounded in numpy.

    Errors of a float32 graph; of one in 16 bits, how many times as much it loses as Transformers does in that type.
    """
    place, model, stored = Path(folder), _passed(graph), Path(graph).parent / FILE
    arrays = _arrays(place / "expected.npz")
    right = wanted(arrays)
    if nodes(model.graph, "QuantizedWeight", "ChannelQuantizedWeight"):
        rounded = rounded_checkpoint(model, place, place / "rounded", stored)
        right = computed(build(place / "graph.onnx", rounded, place / "reference", "portable"), arrays)
    half = model.graph.outputs[0].dtype
    if half not in HALVES:
        return _errors(computed(bind(model, place, place / "built", device, stored), arrays), right)
    name, least = HALVES[half]
    lost = _losses(wanted(_arrays(place / f"{name}.npz")), wanted(arrays))
    if not np.isfinite([*lost.values()]).all():
        raise UnsupportedError(
            f"Transformers computes no numbers of the model in {name}.",
            "Its values exceed the type's range.",
            "Cast to bf16.",
        )
    ways = {}
    if half == ir.DataType.FLOAT16:  # the CPU has kernels
        ways[""] = bind(model, place, place / "built", device, stored)
    model = _passed(graph)
    lower(model.graph, device)
    round_results(model.graph, half)
    ways[" rounded"] = bind(model, place, place / "emulated", device, stored)
    return {
        f"{output}{way}": loss / max(lost[output], least)
        for way, file in ways.items()
        for output, loss in _losses(computed(file, arrays), right).items()
    }


def _quantised(folder: Path) -> dict[str, float]:
    """The CPU's graph with all weights at 4 bits, checked as a target's."""
    model = ir.load(folder / "graph.onnx")
    optimize(model, "cpu")
    if not quantize(model.graph, BlockOptions(block_size=16, accuracy_level=1), "rtn"):
        raise UnsupportedError(
            "It has nothing to quantise.", "No matrix product reads a weight as it is stored.", "Leave it as it is."
        )
    (folder / "int4").mkdir(exist_ok=True)
    canonical.save(model, folder / "int4" / "graph.onnx")
    return check(str(folder), str(folder / "int4" / "graph.onnx"), "cpu")


def parity(folder: str, names: list[str], devices: list[str]) -> dict[str, dict[str, Any]]:
    """Build and compare every twin of `names` for every one of `devices`."""
    out: dict[str, dict[str, Any]] = {}
    for name in names:
        place = Path(folder, name)
        for device in devices:
            call = functools.partial(_compare, place, device)
            out.setdefault(name, {})[device] = isolated(call, log=str(place / f"{device}.log"), seconds=SECONDS)
        print(f"{len(out):4} of {len(names)} compared: {name}", flush=True)
    return out


if __name__ == "__main__":
    serve(lambda action: check(**action) if "graph" in action else parity(**action))
