"""Devices: where built models run. One for each environment that has a device.toml, and a lowering table of that name."""

import functools
import glob
import sys
import tomllib
from dataclasses import dataclass

from onnxmake.build import budget, paths
from onnxmake.build.schema import parse


@dataclass(frozen=True)
class Device:
    """`provider`: what ONNX Runtime GenAI calls it; `system`: the one operating system that has it, as sys.platform; `node`: a glob of what a
    driver of the host makes where it is, on Linux, and whose libraries no image has; `ep`: what ONNX Runtime calls its execution provider."""

    provider: str
    gpus: int = 0
    system: str = ""
    node: str = ""
    ep: str = ""


def devices() -> list[str]:
    return sorted(p.parent.name for p in paths.CONTAINERS.glob("*/device.toml"))


def tables() -> list[str]:
    """Names of the lowering tables: the devices', and portable."""
    return sorted(p.stem for p in (paths.ROOT / "onnxmake" / "model" / "lowering").glob("[!_]*.py"))


@functools.cache
def device(name: str) -> Device:
    file = paths.CONTAINERS / name / "device.toml"
    return parse(Device, tomllib.loads(file.read_text("utf-8")), paths.shown(file))


def lacking(name: str) -> str:
    """Why the device cannot be used on this machine; empty where it can."""
    wanted = device(name)
    if wanted.system and wanted.system != sys.platform:
        return f"it needs {'Windows' if wanted.system == 'win32' else wanted.system}"
    unseen = wanted.node and sys.platform == "linux" and not glob.glob(wanted.node)
    if unseen or wanted.gpus > len(budget.machine().gpus):
        return "no GPU can be used here"
    return ""
