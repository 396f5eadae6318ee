"""A model opened in ONNX Runtime by itself, on a device, with the session options that stand beside it. The runtime is loaded when it is needed: bench counts memory and time."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.errors import UnsupportedError
from onnxmake.model import plugin

PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "WebGPU": "WebGpuExecutionProvider",
}
TYPES = {
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}  # of inputs, as numpy has them


FILE = "session_options.json"  # beside a model: written as in genai_config.json
ENUMS = {"graph_optimization_level": "GraphOptimizationLevel", "execution_mode": "ExecutionMode"}
PLAIN = ("intra_op_num_threads", "inter_op_num_threads", "enable_cpu_mem_arena", "enable_mem_pattern")


def preload(device: str) -> None:
    """CUDA and cuDNN are wheels: no loader finds them by itself."""
    if device == "CUDA":
        import onnxruntime

        onnxruntime.preload_dlls()


def open_bytes(model: bytes) -> Any:
    """An InferenceSession on the CPU that between two runs holds neither memory nor, by waiting for work, the cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=[PROVIDERS["CPU"]])


def open_scoring(file: Path) -> Any:
    """The same as open_session on the CPU, but a decoder that was built to give the last token's logits gives every token's."""
    import onnx_ir as ir
    import onnxruntime

    from onnxmake.model.head import every_token

    model = ir.load(file)
    if not every_token(model.graph):
        return open_session(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=[PROVIDERS["CPU"]])


def on_cpu(opener: Callable[[Path], Any], file: Path, action: str) -> Any:
    """The session that `opener` makes on the CPU. Raises UnsupportedError, with `action` as what to do, where the CPU does not run the model."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    try:
        return opener(file)
    except (runtime.Fail, runtime.InvalidGraph, runtime.NotImplemented, runtime.RuntimeException) as error:
        raise UnsupportedError(
            f"The CPU does not run this model: {str(error).splitlines()[0]}",
            "It has operators or types that only its own device has.",
            action,
        ) from error


def options_beside(file: Path) -> dict[str, Any]:
    """What the model's folder says of its session."""
    known = file.parent / FILE
    return json.loads(known.read_text("utf-8")) if known.exists() else {}


def session_options(settings: Mapping[str, Any]) -> Any:
    """SessionOptions of these settings, named as in genai_config.json; what is no option is a configuration entry."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in settings.items():
        if name in ENUMS:
            setattr(options, name, getattr(getattr(onnxruntime, ENUMS[name]), value))
        elif name in PLAIN:
            setattr(options, name, value)
        else:
            options.add_session_config_entry(name, value)
    return options


def open_session(file: Path, device: str = "CPU", settings: Mapping[str, Any] | None = None) -> Any:
    """An InferenceSession on `device`, without the runtime's warnings; with `settings`, or those beside the model.

    Raises UnsupportedError where the device is not there.
    """
    import onnxruntime

    preload(device)
    options = session_options(options_beside(file) if settings is None else settings)
    providers = plugin.named(onnxruntime, options, device, PROVIDERS[device])
    session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    if session.get_providers()[0] != PROVIDERS[device]:
        raise UnsupportedError(
            f"The model was loaded on {session.get_providers()[0]}, not on {device}.",
            "This machine lacks the device or its driver, or the environment's runtime does not know it.",
            "Run it where the device is: `doit bundle:NAME` packs all that it takes.",
        )
    return session
