"""The device that a workflow's target system is."""

from collections.abc import Mapping
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
from onnxmake.olive.told import Refusal, Told
from onnxmake.olive.workflow import entries, known, table, wrong

DEVICES = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "directml",
    "WebGpuExecutionProvider": "webgpu",
}
REFUSED = {  # why, and what comes closest
    "TensorrtExecutionProvider": ("TensorRT makes an engine of its own", "Use CUDAExecutionProvider."),
    "NvTensorRTRTXExecutionProvider": ("TensorRT makes an engine of its own", "Use CUDAExecutionProvider."),
    "ROCMExecutionProvider": ("AMD's GPUs are no device here", "Use DmlExecutionProvider on Windows."),
    "MIGraphXExecutionProvider": ("AMD's GPUs are no device here", "Use DmlExecutionProvider on Windows."),
    "OpenVINOExecutionProvider": ("OpenVINO is no device here", "Use CPUExecutionProvider."),
    "QNNExecutionProvider": ("Qualcomm's NPU is no device here", "Use CPUExecutionProvider."),
    "VitisAIExecutionProvider": ("AMD's NPU is no device here", "Use DmlExecutionProvider for its GPU."),
    "JsExecutionProvider": ("the browser is no device here", "Use CPUExecutionProvider."),
}
KINDS = {"cpu": "cpu", "gpu": "cuda", "cpu_spr": "cpu", "any": "cpu"}
OTHER = {"npu": "an NPU is no device here", "vpu": "a VPU is no device here", "intel_myriad": "a VPU is no device here"}
TYPES = ("LocalSystem", "PythonEnvironment", "Docker", "IsolatedORT", "AzureML")
CONFIG = {
    *("type", "accelerators", "hf_token", "python_environment_path", "environment_variables", "prepend_to_path"),
    *("olive_managed_env", "requirements_file", "local_docker_config", "is_dev", "dockerfile", "build_context_path"),
    *("image_name", "work_dir", "build_args", "run_params", "clean_image", "device"),
}


def provider_of(system: Mapping[str, Any]) -> str:
    """What a system runs on, as a workflow names it: its first execution provider, or its device."""
    given: Any = next(iter(entries("", "accelerators", system.get("accelerators"))), {})
    accelerator = given if isinstance(given, dict) else {"device": given}
    providers = accelerator.get("execution_providers") or [accelerator.get("device") or "none named"]
    first = providers[0] if isinstance(providers, list) else providers
    return str(first[0] if isinstance(first, list) and first else first)


def device_of(where: str, system: Mapping[str, Any], told: Told) -> str:
    """cpu, cuda, directml or webgpu; cpu where the workflow names no system. Raises TargetError, Refusal."""
    if not system:
        return "cpu"
    name = str(system.get("type"))
    found = {known_type.lower(): known_type for known_type in TYPES}.get(name.lower().removesuffix("_system"))
    if found is None:
        raise TargetError(
            f"{where}: systems: type = {name!r} is none that Olive has.", "A typing error.", nearest(name, TYPES)
        )
    if found == "AzureML":
        raise Refusal("systems: AzureML runs elsewhere", "Use LocalSystem; a runner in CI builds elsewhere.")
    known(where, "systems", system, CONFIG)
    if found != "LocalSystem":
        told.note("systems", f"{found}: steps run in onnxmake's own locked environments, or their images")
    given = system.get("accelerators") or []
    if not isinstance(given, list):
        raise wrong(where, "systems.accelerators", given, "a list of one accelerator")
    if not given:
        return "cpu"
    if len(given) > 1:
        told.note("systems", f"of {len(given)} accelerators, the first: a target is for one device")
    accelerator = (
        {"device": given[0]} if isinstance(given[0], str) else table(where, "systems.accelerators[0]", given[0])
    )
    known(where, "systems.accelerators[0]", accelerator, ("device", "execution_providers", "memory"))
    return _device(where, accelerator, told)


def _device(where: str, accelerator: Mapping[str, Any], told: Told) -> str:
    providers = accelerator.get("execution_providers") or []
    first = next(iter(providers if isinstance(providers, list) else [providers]), None)
    provider = first[0] if isinstance(first, list) and first else first
    if isinstance(providers, list) and len(providers) > 1:
        told.note("systems", f"of {len(providers)} execution providers, the first: a target is for one device")
    kind = str(accelerator.get("device", "")).lower()
    if isinstance(provider, str):
        if provider in REFUSED:
            raise Refusal(f"systems: {provider}: {REFUSED[provider][0]}", REFUSED[provider][1])
        if kind in OTHER:
            raise Refusal(f"systems: {kind}: {OTHER[kind]}", "Use gpu, or cpu.")
        if provider not in DEVICES:
            names = {*DEVICES, *REFUSED}
            raise TargetError(
                f"{where}: execution provider {provider!r} is none that Olive has.",
                "A typing error.",
                nearest(provider, names),
            )
        return DEVICES[provider]
    if kind in OTHER:
        raise Refusal(f"systems: {kind}: {OTHER[kind]}", "Use gpu, or cpu.")
    if kind not in KINDS:
        raise TargetError(
            f"{where}: device = {kind!r} is none that Olive has.", "A typing error.", nearest(kind, {*KINDS, *OTHER})
        )
    if kind == "gpu":
        told.note("systems", "gpu without an execution provider is taken for CUDA")
    return KINDS[kind]
