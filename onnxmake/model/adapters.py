"""Low-rank branches beside a graph's products, whose factors are inputs with a default that adds nothing; ONNX Runtime gets them from the
.onnx_adapter file that is active.

A product over several tensors, such as query, key and value, has one branch: the factors of its parts side by side.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.errors import PassError, UnsupportedError
from onnxmake.model.graph import DOMAIN, attribute, emit, nodes, produced_by
from onnxmake.model.head import product_of
from onnxmake.model.tuned import DOWN, UP, Factors

SUFFIX = ".onnx_adapter"
VERSION = 1  # of adapter and model, which ONNX Runtime reads and compares with nothing
Piece = tuple[str, int, int]  # a tensor, and which of its rows


@dataclass(frozen=True)
class Branch:
    """Which tensors' rows, one after the other, a product reads, and the branch's inputs."""

    pieces: tuple[Piece, ...]
    down: ir.Value  # [K, rank]
    up: ir.Value  # [rank, N]

    def of(self, factors: Mapping[str, Factors]) -> dict[str, np.ndarray]:
        """Name of an input -> float32, for an adapter, weight -> factors; nothing where it changes none of the pieces."""
        ours = [(factors.get(name), first, last) for name, first, last in self.pieces]
        ranks = [0 if found is None else len(found.down) for found, *_ in ours]
        if not sum(ranks):
            return {}
        down = np.concatenate([found.down for found, *_ in ours if found is not None]).T
        up = np.zeros((sum(ranks), sum(last - first for _, first, last in self.pieces)), np.float32)
        row = column = 0
        for (found, first, last), rank in zip(ours, ranks):
            if found is not None:
                up[row : row + rank, column : column + last - first] = found.up[first:last].T
            row, column = row + rank, column + last - first
        return {str(self.down.name): np.ascontiguousarray(down), str(self.up.name): up}


def _pieces(reference: ir.Node, shapes: Mapping[str, Sequence[int]]) -> tuple[Piece, ...]:
    names, bounds = attribute(reference, "parts"), attribute(reference, "rows")
    if bounds:
        return tuple(zip(names, bounds[::2], bounds[1::2]))
    return tuple((name, 0, shapes[name][0]) for name in names)


def _reference(product: ir.Node) -> ir.Node | None:
    return produced_by(product.inputs[1], {"Linear": "Weight"}.get(product.op_type, "QuantizedWeight"), DOMAIN)


def _refuse(product: ir.Node, reference: ir.Node, name: str, head: bool) -> None:
    """Raises UnsupportedError where the product reads something else than the layer of the checkpoint's model does."""
    if head:
        raise UnsupportedError(
            f"{name} is the model's head, whose logits are computed of a prompt's last token only.",
            "The adapter changes the head, too.",
            "Leave the head out under target_modules, or merge the adapter: leave out adapter = ...",
        )
    if "transposed" in reference.attributes or (
        attribute(reference, "method") == "checkpoint" and produced_by(product.inputs[0], "Gather")
    ):
        raise UnsupportedError(
            f"{name} is stored in another order than the adapter's factors.",
            "The checkpoint holds its columns in the order that its quantiser took, or its rows as columns.",
            "Merge the adapter into the unquantised checkpoint: leave out adapter = ...",
        )


def _input(graph: ir.Graph, name: str, shape: tuple, empty: tuple[int, int], dtype: ir.DataType) -> ir.Value:
    """An input [K, rank] or [rank, N] whose default has the rank 0."""
    tensor = ir.tensor(np.zeros(empty, dtype.numpy()), name=name)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def _branch(product: ir.Node, pieces: tuple[Piece, ...]) -> Branch:
    """Let the product's users read its sum with a new branch."""
    (x, *_), out, graph = product.inputs, product.outputs[0], product.graph
    first = pieces[0][0].removesuffix(".weight")
    rows = f"[{pieces[0][1]}:{pieces[-1][2]}]" if len({name for name, *_ in pieces}) == 1 and pieces[0][1] else ""
    name = f"{first}{rows}" + (f"+{len(pieces) - 1}" if len(pieces) > 1 else "")
    width, height = x.shape[-1], out.shape[-1]
    down = _input(graph, name + DOWN, (width, None), (width, 0), x.dtype)
    up = _input(graph, name + UP, (None, height), (0, height), x.dtype)
    after = ir.node("Add", [out, out])  # to build in front of
    graph.insert_after(product, after)
    low = emit(after, "MatMul", [x, down], [*list(x.shape)[:-1], None])
    added = emit(after, "MatMul", [low, up], out.shape)
    users = [(user, place) for user, place in out.uses() if user is not after]
    after.replace_input_with(1, added)
    total = after.outputs[0]
    total.shape, total.type = out.shape, out.type
    for user, place in users:
        user.replace_input_with(place, total)
    if out.is_graph_output():
        total.name, out.name = out.name, None
        graph.outputs[graph.outputs.index(out)] = total
    return Branch(pieces, down, up)


def attach(graph: ir.Graph, changed: Collection[str], shapes: Mapping[str, Sequence[int]]) -> list[Branch]:
    """Give every product a branch that reads a weight which adapters change, in place. `shapes`: of the checkpoint's tensors.

    Raises PassError for a module that no product reads, UnsupportedError where a branch would compute something else.
    """
    if any("instead_of" in node.attributes for node in nodes(graph, "Weight")):
        raise UnsupportedError(
            "quantize_awq has scaled what the products read, and adapters know the values from before.",
            "attach_adapters stands behind it.",
            "Take another quantiser.",
        )
    branches, met, head = [], set[str](), product_of(graph)
    for product in nodes(graph, "Linear", "MatMulNBits"):
        reference = _reference(product)
        names = {*attribute(reference, "parts")} & {*changed} if reference else set()
        if not names:
            continue
        _refuse(product, reference, min(names), product is head)
        branches.append(_branch(product, _pieces(reference, shapes)))
        met |= names
    if missing := sorted({*changed} - met):
        raise PassError(
            f"No product of the graph reads {missing[0]}, which an adapter changes.",
            "It is an expert's, or its product was quantised in a way that has no weight of its own (quantize_dynamic, quantize_static).",
            "Tune other modules, or choose a quantiser of blocks.",
        )
    return branches


def carried(graph: ir.Graph, src: Path) -> set[str]:
    """Names of the adapters' files that belong to a graph. Raises PassError where a pass in between has left them behind."""
    names = {file.name for file in src.glob(f"*{SUFFIX}")}
    if not names and any(value.name.endswith(DOWN) for value in graph.inputs):
        raise PassError(
            "The adapters that were attached are gone.",
            "A pass behind attach_adapters reads the graph alone.",
            "Let attach_adapters come right before packaging.",
        )
    return names


def write(file: Path, arrays: Iterable[Mapping[str, np.ndarray]], dtype: ir.DataType) -> None:
    """An adapter as ONNX Runtime reads it, its values in the type of the graph's activations."""
    import onnxruntime as ort

    values = {name: array.astype(dtype.numpy()) for given in arrays for name, array in given.items()}
    made = ort.AdapterFormat()
    made.set_adapter_version(VERSION)
    made.set_model_version(VERSION)
    made.set_parameters(
        {n: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(v, dtype.value) for n, v in sorted(values.items())}
    )
    made.export_adapter(str(file))
