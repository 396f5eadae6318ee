"""What a build costs that has nothing to do, and what the store costs: `python benchmarks/incremental.py`.

Graphs of toy passes (tests/toy.py), built once; then whole `doit build` commands, and the store's own functions, medians of
five. Prints the table of docs/reliability.md.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults import start_injected  # noqa: E402
from toy import Toy  # noqa: E402

from onnxmake.build import digest, paths, store  # noqa: E402

GIB = 1 << 30


def median(act: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def graph(folder: Path, targets: int, length: int) -> Toy:
    """A built toy of `targets` chains of `length` steps, none shared."""
    toy = Toy(folder)
    for n in range(targets):
        middle = [("scale", {"factor": 2})] * (length - 2)
        toy.target(f"t{n:04}", [("begin", {"width": 4 + n}), *middle, ("finish", {})])
    printed, _ = start_injected(toy, 0, 0, "--here", "build").communicate()
    assert printed.count("/dist/") == targets, printed[-2000:]
    return toy


def nothing_to_do(toy: Toy) -> float:
    def build() -> None:
        command = [sys.executable, "-m", "doit", "build"]
        subprocess.run(command, cwd=toy.root, env=toy.environ, check=True, stdout=subprocess.DEVNULL)

    build()
    return median(build)


def large_file(folder: Path, gib: int) -> Path:
    path = folder / f"{gib}GiB"
    block = os.urandom(1 << 24)
    with open(path, "wb") as file:
        for n in range(gib << 6):
            file.write(n.to_bytes(8, "little") + block[8:])
    os.sync()
    return path


def main() -> None:
    with tempfile.TemporaryDirectory(dir=paths.CACHE.parent) as name:
        folder = Path(name)
        print("| what | seconds |\n|---|---|")
        for targets, length in ((10, 5), (500, 10)):
            seconds = nothing_to_do(graph(folder / f"{targets}", targets, length))
            print(f"| nothing to do, {targets:,} targets, {targets * length:,} steps | {seconds:.2f} |", flush=True)
        one = large_file(folder, 1)
        paths.CACHE = folder / "cache"
        sha = digest.read_digest(one)
        store.put(one, sha, store.local())
        places = (folder / f"restored{n}" for n in range(100))
        seconds = median(lambda: store.lay_out({"weights": [sha, GIB]}, next(places), link=True))
        print(f"| 1 GiB restored for a step (reflink or link) | {seconds:.4f} |", flush=True)
        store.object_path(store.local(), sha).unlink()
        ten = large_file(folder, 10)
        time.sleep(0.2)
        print(f"| sha256 of 10 GiB, first time | {median(lambda: digest.digest_file(ten), 1):.2f} |")
        print(f"| the same again | {median(lambda: digest.digest_file(ten)):.4f} |")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
