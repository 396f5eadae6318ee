"""What quantising the embedded model costs: perplexity on its held-out text, and divergence from the float32 model.

    python benchmarks/quality.py [--windows 110]

Run it in the environment of the tests, with tiny-fp32-cpu built. Each method's values stand in the float32 graph in place of all
its matrices, embedding and tied head included, so nothing but the rounding of weights differs. Divergence is the mean of
KL(float32 || quantised) over tokens, in nats; it tells methods apart that perplexity, which may fall by luck, does not. A
row is a line of METHODS: what is not offered for a setting is None.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import onnx_ir as ir  # noqa: E402
import onnxruntime  # noqa: E402
from tabulate import tabulate  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from onnxmake.build import paths  # noqa: E402
from onnxmake.model.emulate import values_of  # noqa: E402
from onnxmake.model.head import every_token  # noqa: E402

WINDOW = 512
SETTINGS = ((4, 32, True), (4, 128, True), (4, 32, False), (4, 128, False))  # bits, block, symmetric
Values = Callable[[np.ndarray, int, int, bool], np.ndarray | None]


def theirs(name: str, *fixed: bool) -> Values:
    """A method of onnxruntime's that has zero points always."""

    def values(weight: np.ndarray, bits: int, block: int, symmetric: bool) -> np.ndarray | None:
        import peers

        return None if symmetric else getattr(peers, name)(weight, bits, block, *fixed)

    return values


def neural_compressor(weight: np.ndarray, bits: int, block: int, symmetric: bool) -> np.ndarray:
    import peers

    return peers.rtn(weight, bits, block, symmetric)


def ours(method: str) -> Values:
    return lambda weight, *settings: values_of(weight, method, *settings)


METHODS: Mapping[str, Values] = {
    "rtn": ours("rtn"),  # whose bytes are those of onnxruntime's default
    "onnxruntime rtn": neural_compressor,
    "kquant": ours("kquant"),
    "onnxruntime k_quant": theirs("k_quant"),
    "hqq": ours("hqq"),
    "onnxruntime hqq": theirs("hqq"),
    "onnxruntime hqq, rounded": theirs("hqq", True),
}


def tokens(windows: int | None = None) -> np.ndarray:
    """The held-out text as rows of WINDOW tokens."""
    folder = paths.TARGETS / "tiny"
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode((folder / "heldout.txt").read_text()).ids
    return np.array(ids[: len(ids) // WINDOW * WINDOW], np.int64).reshape(-1, WINDOW)[:windows]


def opened(file: Path, change: Callable[[np.ndarray], np.ndarray] = lambda weight: weight) -> Callable:
    """The float32 model with each of its matrices changed, as a function of tokens [S] to log probabilities [S - 1, V]."""
    model = ir.load(file)
    every_token(model.graph)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        value.const_value = ir.tensor(change(array) if array.ndim == 2 else array, name=value.name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    past = [i for i in session.get_inputs() if i.name.startswith("past")]
    empty = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in past}

    def run(row: np.ndarray) -> np.ndarray:
        feed = {"input_ids": row[None], "attention_mask": np.ones((1, len(row)), np.int64), **empty}
        logits = session.run(["logits"], feed)[0][0, :-1]
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    return run


def measured(file: Path, methods: Mapping[str, Values], settings: tuple, rows: np.ndarray) -> Iterator[tuple]:
    """(name, perplexity, divergence) of the float32 model, then of each method that offers the settings."""
    models = {"float32": opened(file)}
    for name, method in methods.items():
        if method(np.zeros((1, 256), np.float32), *settings) is not None:
            models[name] = opened(file, functools.partial(_changed, method, settings))
    return compared(models, rows)


def compared(models: Mapping[str, Callable], rows: np.ndarray) -> Iterator[tuple]:
    """(name, perplexity, divergence from the first) of each model."""
    sums = {name: np.zeros(2) for name in models}
    for row in rows:
        reference = None
        for name, model in models.items():
            found = model(row)
            reference = found if reference is None else reference
            loss = -found[np.arange(len(row) - 1), row[1:]].mean(dtype=np.float64)
            sums[name] += loss, (np.exp(reference) * (reference - found)).sum(-1).mean(dtype=np.float64)
    for name, (loss, divergence) in sums.items():
        yield name, float(np.exp(loss / len(rows))), float(divergence / len(rows))


def _changed(method: Values, settings: tuple, weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(method(np.ascontiguousarray(weight), *settings), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, help="of the text's 110")
    rows = tokens(parser.parse_args().windows)
    file = paths.DIST / "tiny-fp32-cpu" / "model.onnx"
    if not file.exists():
        sys.exit("Build it first: doit build:tiny-fp32-cpu")
    table = []
    for settings in SETTINGS:
        for name, perplexity, divergence in measured(file, METHODS, settings, rows):
            table.append([*settings, name, perplexity, divergence])
    headers = ["bits", "block", "symmetric", "method", "perplexity", "divergence"]
    print(tabulate(table, headers, "github", floatfmt=("", "", "", "", ".4f", ".5f")))


if __name__ == "__main__":
    main()
