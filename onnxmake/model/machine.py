"""The machine that a figure is of."""

import os
import platform
import subprocess
from pathlib import Path

from onnxmake.errors import UnsupportedError

GPU = {  # as ONNX Runtime GenAI names devices -> what prints the name of theirs
    "CUDA": ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
    "DirectML": ["powershell", "-NoProfile", "-Command", "(Get-CimInstance Win32_VideoController).Name"],
    "WebGPU": ["sh", "-c", "vulkaninfo --summary | sed -n 's/.*deviceName *= //p'"],
}


def describe(device: str) -> dict:
    """What a number depends on: {"cpu", "cores", "system"}, and "gpu" where the device is one."""
    found = {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(terse=True),
    }
    if device in GPU:
        found["gpu"] = _gpu(device)
    return found


def _gpu(device: str) -> str:
    """The first GPU's name. Raises UnsupportedError."""
    try:
        return subprocess.run(GPU[device], capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UnsupportedError(
            f"There is no {device} device: {error}.",
            "The machine has no such GPU, or its driver is not installed.",
            "Install the driver, or run it elsewhere.",
        ) from error


def _cpu() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
