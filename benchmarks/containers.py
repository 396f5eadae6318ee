"""What containers cost and hold: a step's overhead, the images, and a 0.5B model built inside its declared memory.

python benchmarks/containers.py [--rounds 20] [--checkpoint FOLDER]

Needs a container engine, and the images (`doit image`). With a checkpoint, `qwen-int4-cpu` is built from it by runner=docker in a
store of its own, its graph exported too: each step's container is limited to what its pass declares, without swap.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from onnxmake.build import container, engine, image, paths
from onnxmake.build.declaration import declaration
from onnxmake.build.job import Job

STEPS = ("export", "optimize", "quantize_rtn", "package_genai")


def overhead(rounds: int) -> list[list]:
    """Seconds from asking for a container until it is removed, for a program that does nothing, and one that imports the runtime."""
    rows = []
    for label, program in (("nothing", "pass"), ("import onnxruntime", "import onnxruntime")):
        taken = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            worker = container.start(Job("cpu", ("-c", program), memory_mb=512))
            code = worker.wait(60)
            worker.end()
            taken.append(time.perf_counter() - started)
            if code:
                raise RuntimeError(f"{label} ended with exit code {code}")
        taken = sorted(taken[1:])
        rows.append([label, f"{statistics.median(taken):.2f}", f"{taken[int(0.9 * len(taken))]:.2f}"])
    return rows


def images() -> list[list]:
    found = [image.find(name) for name in image.names()]
    return [[r["environment"], f"{r['size'] / 1e6:,.0f}", f"{r['seconds']:.0f}", r["base"]] for r in found if r]


def build(checkpoint: Path) -> str:
    """What the build prints; it ends with an error where memory does not suffice."""
    scratch = Path(tempfile.mkdtemp(prefix="onnxmake-containers-"))
    (scratch / "cache").mkdir()
    for shared in ("images", "numba"):
        os.symlink(paths.CACHE / shared, scratch / "cache" / shared)
    environ = os.environ | {"ONNXMAKE_CACHE": str(scratch / "cache"), "ONNXMAKE_OUTPUT": str(scratch / "output")}
    command = [sys.executable, "-m", "doit", "runner=docker", f"source={checkpoint}", "build:qwen-int4-cpu"]
    return subprocess.run(command, cwd=paths.ROOT, env=environ, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    engine.client()
    print(tabulate(overhead(options.rounds), ["a container that does", "s, median", "s, p90"]))
    print(tabulate(images(), ["image", "MB", "built in s", "base"]))
    if options.checkpoint:
        print(tabulate([[name, declaration(name).memory_mb] for name in STEPS], ["step", "MB it may use"]))
        print(build(options.checkpoint.resolve()))


if __name__ == "__main__":
    main()
