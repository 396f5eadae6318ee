"""Block quantisers beside onnxruntime's own: million parameters a second and errors, alternating runs, medians.

    python benchmarks/quantise.py [--rounds 5]

Run it in the environment of the tests (`pip install -e .[test]`); numbers count on an idle machine. Weights are normal.
The error of rtn is none: the bytes must be onnxruntime's. That of kquant is the sum that k-quants weigh, that of hqq the mean of
|error|^0.7. onnxruntime's k-quant and HQQ have zero points always, its HQQ fractions in float32: 28 bits more for a block
than onnxmake, and with them its CPU kernel takes some 70 times as long. Rounded to integers they are what onnxmake writes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
from onnxruntime.capi._pybind_state import quantize_matmul_4bits  # noqa: E402
from peers import hqq, k_quant  # noqa: E402
from tabulate import tabulate  # noqa: E402

from onnxmake.model.emulate import values_of  # noqa: E402
from onnxmake.model.kernels import quantize_rows  # noqa: E402

LARGE, SMALL = (8192, 2048), (2048, 1024)


def speeds(calls: dict[str, Callable], size: int, rounds: int) -> dict[str, float]:
    """Median Mparam/s of each call; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: size / statistics.median(times[1:]) / 1e6 for name, times in seconds.items()}


def weighted(x: np.ndarray, y: np.ndarray, block: int) -> float:
    values, errors = (a.astype(np.float64).reshape(-1, block) for a in (x, y - x))
    return float(((np.sqrt((values**2).mean(1, keepdims=True)) + abs(values)) * errors**2).sum())


def root(x: np.ndarray, y: np.ndarray, block: int) -> float:
    return float((abs(y - x) ** 0.7).mean())


def nearest(x: np.ndarray, symmetric: bool) -> Callable:
    """onnxruntime's quantiser of [K, N], called so that it needs no transposition; the arrays it wrote."""
    size, block = x.size, 32
    out = np.zeros((1, size // block, block // 2), np.uint8), np.zeros(size // block, np.float32)
    zeros = np.zeros(size // block // 2, np.uint8)

    def call() -> list[np.ndarray]:
        quantize_matmul_4bits(out[0], x.reshape(size, 1), out[1], zeros, block, 1, size, symmetric)
        return [*out, zeros][: 3 - symmetric]

    return call


def rounding(rounds: int) -> list[list]:
    half = np.random.default_rng(0).standard_normal(LARGE, np.float32).astype(ml_dtypes.bfloat16)
    x, rows = half.astype(np.float32), []
    for symmetric in (True, False):
        theirs = nearest(x, symmetric)
        for ours, wanted in zip(quantize_rows(half, "rtn", 4, 32, symmetric), theirs()):
            assert ours.tobytes() == wanted.tobytes()
        calls = {
            "onnxmake, bfloat16": lambda: quantize_rows(half, "rtn", 4, 32, symmetric),  # noqa: B023
            "onnxmake, float32": lambda: quantize_rows(x, "rtn", 4, 32, symmetric),  # noqa: B023
            "onnxruntime, float32": theirs,
        }
        settings = ["rtn", 32, "no" if symmetric else "yes"]
        rows += [[*settings, name, speed, "same bytes"] for name, speed in speeds(calls, x.size, rounds).items()]
    return rows


def searches(rounds: int) -> list[list]:
    x, rows = np.random.default_rng(1).standard_normal(SMALL, np.float32), []
    for method, peer, error in (("kquant", k_quant, weighted), ("hqq", hqq, root)):
        for block in (32, 128):
            calls = {
                "onnxmake": lambda: quantize_rows(x, method, 4, block, False),  # noqa: B023
                "onnxruntime": lambda: peer(x, 4, block),  # noqa: B023
            }
            measured = speeds(calls, x.size, rounds)
            made = {"onnxmake": values_of(x, method, 4, block, False), "onnxruntime": peer(x, 4, block)}
            if method == "hqq":
                made["onnxruntime, rounded"] = hqq(x, 4, block, whole=True)
            rows += [[method, block, "yes", name, measured.get(name), error(x, y, block)] for name, y in made.items()]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = rounding(rounds) + searches(rounds)
    headers = ["method", "block", "zero points", "tool", "Mparam/s", "error"]
    shown = [[*row[:5], row[5] if isinstance(row[5], str) else f"{row[5]:.5g}"] for row in rows]
    print(tabulate(shown, headers, "github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
