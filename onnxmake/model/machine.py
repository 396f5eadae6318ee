"""The machine that a figure is of, and what a process used of it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from onnxmake.errors import UnsupportedError

GPU = {  # as ONNX Runtime GenAI names devices -> what prints the name of theirs
    "CUDA": ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
    "DirectML": ["powershell", "-NoProfile", "-Command", "(Get-CimInstance Win32_VideoController).Name"],
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


def peak_bytes() -> int:
    """The largest size that this process had in memory."""
    if sys.platform == "win32":
        return _peak_on_windows()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_on_windows() -> int:
    """PeakWorkingSetSize, the third field of PROCESS_MEMORY_COUNTERS (psapi.h)."""
    import ctypes

    class Counters(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint32), ("faults", ctypes.c_uint32), ("peak", ctypes.c_size_t)] + [
            (f"rest{i}", ctypes.c_size_t) for i in range(7)
        ]

    counters, kernel = Counters(), ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    counters.size = ctypes.sizeof(counters)
    if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        raise OSError(ctypes.get_last_error(), "K32GetProcessMemoryInfo")  # type: ignore[attr-defined]
    return counters.peak
