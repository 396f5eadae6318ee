"""What a runner is asked to start: an environment's Python, and what it may see and use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxmake.build import paths

BOOT = str(paths.ROOT / "onnxmake" / "model" / "boot.py")
HOUR = 3600


@dataclass(frozen=True)
class Job:
    """Paths are the same inside and out. A container sees no others; a step among the host's processes cuts itself off."""

    environment: str
    arguments: tuple[str, ...]  # for the environment's Python
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    memory_mb: int = 0  # at most; 0: as much as there is
    seconds: int = 24 * HOUR  # at most
    gpus: tuple[int, ...] = ()
    network: bool = False
    unit: str = "B"  # of its progress
    code: Mapping[str, str] = field(default_factory=dict)  # of a step: file -> sha256 of all that it runs


def step(environment: str, code: Mapping[str, str], **limits: Any) -> Job:
    """boot.py, which takes an action. How it is cut off is the runner's word, added to the arguments."""
    return Job(environment, ("-P", BOOT), code=code, **limits)


def module(name: str, environment: str, read: Sequence[str] = (), **limits: Any) -> Job:
    """A module of the step side that serves an action, such as bench."""
    return Job(environment, ("-m", name), (str(paths.ROOT / "onnxmake"), *read), **limits)
