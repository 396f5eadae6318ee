"""Execution providers that are packages of their own, of which a runtime must be told before it knows them."""

import functools
import importlib.util
from types import ModuleType
from typing import Any

from onnxmake.errors import UnsupportedError

PACKAGES = {"WebGPU": "onnxruntime_ep_webgpu"}  # as ONNX Runtime GenAI names devices -> what has the library


@functools.cache
def register(runtime: ModuleType, device: str) -> None:
    """Tell `runtime`, onnxruntime or onnxruntime_genai, of the device's provider where it is a package. Raises UnsupportedError."""
    if device not in PACKAGES:
        return
    if importlib.util.find_spec(PACKAGES[device]) is None:
        raise UnsupportedError(
            f"There is no {device} provider here.",
            f"This environment has no package {PACKAGES[device].replace('_', '-')}.",
            "Install the environment of the target's device.",
        )
    runtime.register_execution_provider_library(device, importlib.import_module(PACKAGES[device]).get_library_path())


def named(runtime: ModuleType, options: Any, device: str, provider: str) -> list[str]:
    """What a session of onnxruntime is given as providers: the name, or nothing where it is a package, as `options` then hold the
    first of its devices, if the machine has one. Raises UnsupportedError."""
    if device not in PACKAGES:
        return [provider]
    register(runtime, device)
    if found := [known for known in runtime.get_ep_devices() if known.ep_name == provider]:
        options.add_provider_for_devices(found[:1], {})
    return []
