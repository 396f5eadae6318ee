"""What steps that run side by side may use together: memory and GPUs, as their passes declare."""

import contextlib
import glob
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from onnxmake.build.once import once
from onnxmake.errors import EnvironmentMissing


class Budget:
    """A semaphore over megabytes and GPU numbers. Who asks for more memory than there is runs alone."""

    def __init__(self, memory: int, gpus: list[int]):
        self.memory, self.gpus = memory, gpus
        self._free, self._idle = memory, list(gpus)
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, memory: int, gpus: int) -> Iterator[list[int]]:
        """Wait until this much is free; gives the GPUs' numbers. Raises EnvironmentMissing for GPUs that the machine lacks."""
        if gpus > len(self.gpus):
            raise EnvironmentMissing(
                f"The step needs {gpus} GPU(s); {len(self.gpus)} can be used here.",
                "The machine has none, its driver is not loaded, or ONNXMAKE_GPUS says otherwise.",
                "Build on a machine that has one, or set ONNXMAKE_GPUS to the numbers of those to use.",
            )
        memory = min(memory, self.memory)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= memory and len(self._idle) >= gpus)
            self._free -= memory
            given = [self._idle.pop(0) for _ in range(gpus)]
        try:
            yield given
        finally:
            with self._changed:
                self._free += memory
                self._idle += given
                self._changed.notify_all()


def _machine_memory() -> int:
    """Megabytes: of the machine, or of the control group where that is less."""
    limit = Path("/sys/fs/cgroup/memory.max")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 62
    given = limit.read_text().strip() if limit.exists() else "max"
    return min(physical, int(given) if given.isdigit() else physical) // 1_000_000


def _numbers(variable: str) -> list[int] | None:
    """Whole numbers with commas between; None where the variable is not set. Raises EnvironmentMissing."""
    text = os.environ.get(variable)
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise EnvironmentMissing(
            f"{variable}={text} is not what a step could be given.",
            "It takes whole numbers: megabytes, or GPUs' numbers with commas.",
            f"Correct or unset {variable}.",
        ) from None


@once
def machine() -> Budget:
    """This machine's budget, or what ONNXMAKE_MEMORY_MB and ONNXMAKE_GPUS say; one for all threads. Raises EnvironmentMissing."""
    memory, gpus = _numbers("ONNXMAKE_MEMORY_MB"), _numbers("ONNXMAKE_GPUS")
    if gpus is None:
        gpus = [int(path.removeprefix("/dev/nvidia")) for path in glob.glob("/dev/nvidia[0-9]*")]
    return Budget(memory[0] if memory else _machine_memory(), sorted(gpus))
