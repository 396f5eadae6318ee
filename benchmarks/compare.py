"""Compare a build with the GenAI model builder on the same checkpoint: alternating runs on this machine, medians and ratios.

    python -m venv rival && rival/bin/pip install onnxruntime-genai==0.18.0 onnxruntime transformers==5.23.0 torch==2.13.0 onnx-ir
    python benchmarks/compare.py --rival rival/bin/python [--rounds 5] [--checkpoint FOLDER]

Run it in the environment that has onnxmake (`pip install -e .`), environments already made. The checkpoint, unless
given, has the shape of Qwen2.5 0.5B and random bfloat16 weights. Measured are whole commands: wall seconds, peak
resident bytes of any process, bytes written; then tokens a second of both results. Writes build/bench/compare.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tabulate import tabulate

from onnxmake.build import environment, paths
from onnxmake.build.files import read_record  # noqa: E402

TARGET = "qwen-int4-cpu"
GRAPH_STEPS = {"export", "optimize", "quantize_rtn"}


def peak_memory(pid: int, stop: threading.Event) -> int:
    """Largest VmHWM of the process and its descendants, looked at often enough to see short ones."""
    highest = 0

    def look(process: int) -> None:
        nonlocal highest
        try:
            status = Path(f"/proc/{process}/status").read_text()
            highest = max(
                [highest, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))]
            )
            for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
                look(int(child))
        except (FileNotFoundError, ProcessLookupError):
            return

    while not stop.wait(0.01):
        look(pid)
    return highest


def timed(command: list[str], environ: dict[str, str]) -> dict[str, float]:
    stop, found = threading.Event(), []
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | environ, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watcher = threading.Thread(target=lambda: found.append(peak_memory(process.pid, stop)))
    watcher.start()
    printed, _ = process.communicate()
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{printed}")
    return {"seconds": seconds, "peak": found[0]}


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def floor(checkpoint: Path, scratch: Path) -> float:
    """Seconds to read the weights, quantise them in memory at the kernel's speed and write the result.

    What no build of this kind can beat.
    """
    program = """
import os, sys, time
import numpy as np
from onnxmake.model.quantisers.rtn import quantize_rows
rows, packed, scales = np.zeros((4096, 1024), np.uint16), np.empty((4096, 32, 16), np.uint8), np.empty((4096, 32), np.float32)
zeros = np.empty((4096, 16), np.uint8)
quantize_rows(rows, 4, 32, True, packed, scales, zeros)
started = time.perf_counter()
done, size = 0, os.path.getsize(sys.argv[1])
with open(sys.argv[1], "rb", buffering=0) as source, open(sys.argv[2], "wb", buffering=0) as out:
    while done < size:
        done += source.readinto(memoryview(rows).cast("B"))
        quantize_rows(rows, 4, 32, True, packed, scales, zeros)
        out.write(packed)
        out.write(scales)
print(time.perf_counter() - started)
"""
    python = environment.ensure("cpu")
    environ = os.environ | {
        "PYTHONPATH": str(paths.ROOT),
        "NUMBA_CACHE_DIR": str(paths.CACHE / "numba" / environment.folder_of("cpu").name),
    }
    done = subprocess.run(
        [str(python), "-c", program, str(checkpoint / "model.safetensors"), str(scratch / "floor")],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    os.unlink(scratch / "floor")
    return float(done.stdout)


def forget(cache: Path, passes: set[str]) -> None:
    """Drop the store's entries of these passes, and every note of digests and manifests.

    What a build would know of an earlier one.
    """
    for entry in (cache / "store" / "entries").glob("*.json"):
        if read_record(entry)["key"]["pass"] in passes:
            entry.unlink()
    for note in cache.glob("digests.sqlite*"):
        note.unlink()


def decode_speed(python: str, folder: Path) -> dict[str, float]:
    """Median prefill and decode tokens a second, by onnxmake's own bench in the cpu environment."""
    action = {"folder": str(folder), "device": "CPU", "prompt_tokens": [128], "new_tokens": 64, "repeats": 3}
    child = subprocess.Popen(
        [python, "-m", "onnxmake.model.bench"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(paths.ROOT)},
        text=True,
    )
    child.stdin.write(json.dumps(action) + "\n")
    child.stdin.flush()  # it ends when its input does
    told = child.stdout.read()
    if child.wait():
        raise RuntimeError(told)
    run = json.loads(told.splitlines()[-1].removeprefix("@onnxmake "))["result"]["runs"][0]
    return {"prefill": run["prefill"]["p50"], "decode": run["decode"]["p50"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", required=True, help="a Python that has onnxruntime-genai's model builder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="onnxmake-compare-"))
    cpu = str(environment.ensure("cpu"))
    checkpoint = options.checkpoint
    if checkpoint is None:
        checkpoint = scratch / "checkpoint"
        subprocess.run(
            [
                str(environment.ensure("torch")),
                "-m",
                "onnxmake.model.skeleton",
                str(paths.TARGETS / "prebuilt" / "qwen2.5-0.5b-instruct.config.json"),
                str(checkpoint),
                "--random",
            ],
            env=os.environ | {"PYTHONPATH": str(paths.ROOT)},
            check=True,
        )
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(paths.TARGETS / "tiny" / name, checkpoint / name)
    cache, output, rival = scratch / "cache", scratch / "output", scratch / "rival"
    cache.mkdir()
    for shared in ("envs", "numba"):
        os.symlink(paths.CACHE / shared, cache / shared)
    environ = {"ONNXMAKE_CACHE": str(cache), "ONNXMAKE_OUTPUT": str(output)}
    build = [sys.executable, "-m", "doit", f"source={checkpoint}", f"build:{TARGET}"]
    builder = [
        options.rival,
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        str(checkpoint),
        "-o",
        str(rival),
        "-p",
        "int4",
        "-e",
        "cpu",
        "-c",
        str(scratch / "rival-cache"),
    ]

    kinds = {
        "model builder": (builder, None),
        "graph in the store": (build, {"package_genai"}),
        "graph exported first": (build, GRAPH_STEPS | {"package_genai"}),
        "nothing changed": (build, set()),
    }
    results: dict[str, list[dict]] = {kind: [] for kind in [*kinds, "doit list"]}
    prebuilt = paths.TARGETS / "prebuilt" / "entries"
    for number in range(options.rounds + 1):  # the first round warms caches and is not counted
        for kind, (command, lost) in kinds.items():
            if lost is None:
                shutil.rmtree(rival, ignore_errors=True)
            elif lost:
                shutil.rmtree(output, ignore_errors=True)
                forget(cache, lost)
            hidden = prebuilt.with_name("entries.hidden")
            if lost and "export" in lost:
                prebuilt.rename(hidden)
            try:
                result = timed(command, environ | {"HF_HUB_OFFLINE": "1"})
            finally:
                if hidden.exists():
                    hidden.rename(prebuilt)
            if number:
                results[kind].append(result)
        listed = timed([sys.executable, "-m", "doit", "list"], environ)
        if number:
            results["doit list"].append(listed)
        print(
            f"round {number}: "
            + ", ".join(f"{kind} {runs[-1]['seconds']:.2f} s" for kind, runs in results.items() if runs),
            flush=True,
        )
    speeds: dict[str, list[dict]] = {"onnxmake": [], "model builder": []}
    for _ in range(options.rounds):
        speeds["onnxmake"].append(decode_speed(cpu, output / "dist" / TARGET))
        speeds["model builder"].append(decode_speed(cpu, rival))
    floors = [floor(checkpoint, scratch) for _ in range(options.rounds)]

    median = {
        kind: {key: statistics.median(r[key] for r in runs) for key in ("seconds", "peak")}
        for kind, runs in results.items()
    }
    base = median["model builder"]
    rows = [
        [
            kind,
            f"{m['seconds']:.2f}",
            f"{m['seconds'] / base['seconds']:.2f}",
            f"{m['peak'] / 1e6:.0f}",
            f"{m['peak'] / base['peak']:.2f}",
        ]
        for kind, m in median.items()
    ]
    rows.append(
        [
            "floor: read, quantise, write",
            f"{statistics.median(floors):.2f}",
            f"{statistics.median(floors) / base['seconds']:.2f}",
            "",
            "",
        ]
    )
    print(
        tabulate(
            rows, ["", "seconds", "of builder's", "peak MB", "of builder's"], tablefmt="github", disable_numparse=True
        )
    )
    speed = {
        who: {key: statistics.median(r[key] for r in runs) for key in ("prefill", "decode")}
        for who, runs in speeds.items()
    }
    sizes = {"onnxmake": size_of(output / "dist" / TARGET), "model builder": size_of(rival)}
    print(
        tabulate(
            [[who, f"{sizes[who] / 1e6:.1f}", f"{s['prefill']:.0f}", f"{s['decode']:.1f}"] for who, s in speed.items()],
            ["int4", "MB", "prefill tok/s", "decode tok/s"],
            tablefmt="github",
            disable_numparse=True,
        )
    )
    out = paths.BUILD / "bench" / "compare.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps(
            {
                "machine": platform.platform(),
                "rounds": options.rounds,
                "runs": results,
                "floor": floors,
                "speed": speeds,
                "size": sizes,
            },
            indent=1,
        )
    )
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
