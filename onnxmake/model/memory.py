"""How large a process has been in memory."""

import re
import sys
from pathlib import Path


def peak_bytes() -> int:
    """The largest size that this process had in memory, or that one of the children had for which it has waited."""
    if sys.platform == "win32":
        return _peak_on_windows()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (
        resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(_peak_on_linux() or own, children)


def _peak_on_linux() -> int | None:
    """VmHWM of proc(5), where there is one: getrusage counts in the size of whatever started the process."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else None


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
