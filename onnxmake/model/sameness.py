"""How far two builds of a step are the same, of files whose bytes differ.

{"first", "second", "files"}, two folders and names of files in both -> file -> [verdict, what it rests on].
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.model import signature
from onnxmake.model.canonical import canonicalize
from onnxmake.model.distance import TOLERANCE, distance, scale_of
from onnxmake.model.reader import DTYPES
from onnxmake.model.safetensors import Tensor, read_header
from onnxmake.model.serve import serve

GRAPH_EQUAL, NUMERICALLY_EQUAL, DIFFERENT = "graph-equal", "numerically equal", "different"
BLOCK = 1 << 20  # bytes of other files
Found = tuple[str, str]


def of_tensors(pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Found:
    """Of (name, first, second) of equal shapes and types."""
    worst, said = 0.0, ""
    for name, a, b in pairs:
        count, largest = distance(a, b)
        if not count:
            continue
        shown, limit = f"tensor {name}: {count:,} of {a.size:,} values differ", TOLERANCE.get(str(a.dtype))
        if limit is None:
            return DIFFERENT, shown
        scale = scale_of(a)
        shown += f", by {largest:.3g} at most, of values up to {scale:.3g}"
        if largest > limit * scale:
            return DIFFERENT, shown
        if not said or largest > worst:
            worst, said = largest, shown
    return (NUMERICALLY_EQUAL, said) if said else (GRAPH_EQUAL, "")


def of_models(first: ir.Model, second: ir.Model) -> Found:
    """Of two models, which are made canonical: graphs, then what initializers hold."""
    for model in (first, second):
        canonicalize(model)
    if found := signature.difference(first, second):
        return DIFFERENT, found
    others = second.graph.initializers
    values = ((name, v.const_value, others[name].const_value) for name, v in first.graph.initializers.items())
    return of_tensors((name, a.numpy(), b.numpy()) for name, a, b in values)


def _array(tensor: Tensor) -> np.ndarray:
    """Its values, or the bytes of codes."""
    dtype = DTYPES.get(tensor.dtype)
    if not tensor.size:
        return np.zeros(0, dtype or np.uint8)
    return np.memmap(
        tensor.path, np.dtype(dtype or np.uint8), "r", tensor.offset, tensor.shape if dtype else tensor.size
    )


def of_safetensors(first: Path, second: Path) -> Found:
    a, b = read_header(first), read_header(second)
    described = [{name: (t.dtype, t.shape) for name, t in side.items()} for side in (a, b)]
    if names := [name for name in {**a, **b} if described[0].get(name) != described[1].get(name)]:
        shown = [described[i].get(names[0], "absent") for i in (0, 1)]
        return DIFFERENT, f"tensor {names[0]}: {shown[0]} and {shown[1]}"
    return of_tensors((name, _array(a[name]), _array(b[name])) for name in a)


def of_bytes(first: Path, second: Path) -> Found:
    """Of files that are neither graphs nor tensors: where they part."""
    at = 0
    with open(first, "rb") as one, open(second, "rb") as other:
        while (a := one.read(BLOCK)) == (b := other.read(BLOCK)) and a:
            at += len(a)
    at += next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return DIFFERENT, f"from byte {at:,} on"


def _data(graph: Path) -> set[str]:
    """Files that hold tensors of a graph."""
    tensors = [value.const_value for value in ir.load(graph).graph.initializers.values()]
    return {Path(t.location).as_posix() for t in tensors if isinstance(t, ir.ExternalTensor)}


def compare(first: str, second: str, files: Iterable[str]) -> Mapping[str, Found]:
    """Of each file. Tensors beside a graph are compared as the graph's, whichever of the files differ."""
    one, other, found = Path(first), Path(second), dict[str, Found]()
    graphs = {path.relative_to(one).as_posix(): path for path in sorted(one.rglob("*.onnx"))}
    owners = {str(Path(name).parent / data): name for name, path in graphs.items() for data in _data(path)}
    for name in files:
        whole = owners.get(name, name)
        if whole in found:
            found[name] = found[whole]
        elif whole in graphs:
            found[name] = found[whole] = of_models(ir.load(one / whole), ir.load(other / whole))
        elif name.endswith(".safetensors"):
            found[name] = of_safetensors(one / name, other / name)
        else:
            found[name] = of_bytes(one / name, other / name)
    return {name: found[name] for name in files}


if __name__ == "__main__":
    serve(lambda action: compare(**action))
