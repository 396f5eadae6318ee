"""Tools that build ONNX decoders from a checkpoint, each run as a command, and how what they build does."""

import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from decoders import count, errors

from onnxmake.model.isolated import isolated

TOLERANCE, SECONDS = 1e-4, 300.0
OURS, PORTABLE, GENAI = "onnxmake", "onnxmake portable", "GenAI builder"
MOBIUS, MOBIUS_PORTABLE = "mobius cpu", "mobius portable"
PEERS = {GENAI: OURS, MOBIUS: OURS, MOBIUS_PORTABLE: PORTABLE}  # what each is measured by
REFUSALS = r"UnsupportedError|NotImplementedError|Unknown model_type|Model type .* is not registered"


def tools(genai: str, mobius: str | None) -> dict[str, Callable[[Path, Path], list[str]]]:
    """Name -> the command that builds one folder's checkpoint into another folder, by these Pythons."""

    def ours(device: str, twin: Path, out: Path) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("build_twin.py")), str(twin), str(out), device]

    def model_builder(twin: Path, out: Path) -> list[str]:
        command = [genai, "-m", "onnxruntime_genai.models.builder", "-i", str(twin), "-o", str(out)]
        command += ["-p", "fp32", "-e", "cpu", "-c", str(out / "cache")]
        return [*command, "--extra_options", "windowed_kv_cache=false"]  # short caches need GenAI to lay them out

    def declared(provider: str, twin: Path, out: Path) -> list[str]:
        return [mobius, "-m", "mobius", "build", "--model", str(twin), str(out), "--dtype", "f32", "--ep", provider]

    found = {OURS: functools.partial(ours, "cpu"), GENAI: model_builder, PORTABLE: functools.partial(ours, "portable")}
    if mobius:
        found[MOBIUS] = functools.partial(declared, "cpu")
        found[MOBIUS_PORTABLE] = functools.partial(declared, "default")
    return found


def build(command: list[str], out: Path) -> dict[str, Any]:
    """{"seconds"}, and what it says last, as "why", if it ends with an error."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    environ["NUMBA_CACHE_DIR"] = str(out.parents[1] / "numba")
    log, started = out / "build.log", time.perf_counter()
    with open(log, "w") as printed:
        try:
            code = subprocess.run(
                command, env=environ, cwd=out, stdout=printed, stderr=subprocess.STDOUT, timeout=SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            return {"seconds": SECONDS, "why": f"did not end within {SECONDS:.0f} s"}
    seconds = time.perf_counter() - started
    if not code:
        return {"seconds": seconds}
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return {"seconds": seconds, "why": [f"exit code {code}", *lines[-1:], *raised[-1:]][-1]}


def _measure(twin: Path, file: Path) -> dict[str, Any]:
    with np.load(twin / "expected.npz") as expected:
        return count(file) | {"errors": errors(file, dict(expected))}


def outcome(command: list[str], twin: Path, out: Path) -> dict[str, Any]:
    """Build and run: {"verdict", "seconds"} with {"why"}, or with {"nodes", "ops", "errors", "error": of prefill and decode}."""
    found = _outcome(command, twin, out)
    if "why" in found:
        found["why"] = found["why"].replace(f"{out}/", "").replace(str(twin), twin.parent.name)[:300]
    return found


def _outcome(command: list[str], twin: Path, out: Path) -> dict[str, Any]:
    found = build(command, out)
    if "why" in found:
        refused = re.search(REFUSALS, (out / "build.log").read_text(errors="replace"))
        return found | {"verdict": "unsupported" if refused else "failed"}
    told = isolated(_measure, twin, out / "model.onnx", log=str(out / "run.log"), seconds=SECONDS)
    if "result" not in told:
        return found | {"verdict": "failed", "why": f"built, but: {told.get('failed') or told['refused']}"}
    found |= told["result"]
    computed = [found["errors"][kind] for kind in ("prefill", "decode")]
    if said := [error for error in computed if isinstance(error, str)]:
        return found | {"verdict": "failed", "why": f"built, but: {said[0]}"}
    return found | {"verdict": "right" if max(computed) < TOLERANCE else "wrong", "error": max(computed)}
