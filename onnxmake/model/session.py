"""A model opened in ONNX Runtime by itself, on a device. The runtime is loaded when it is needed: bench counts memory and time."""

from pathlib import Path
from typing import Any

from onnxmake.errors import UnsupportedError

PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "DirectML": "DmlExecutionProvider"}
TYPES = {
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}  # of inputs, as numpy has them


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


def open_session(file: Path, device: str = "CPU") -> Any:
    """An InferenceSession on `device`, without the runtime's warnings. Raises UnsupportedError where the device is not there."""
    import onnxruntime

    preload(device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=[PROVIDERS[device]])
    if session.get_providers()[0] != PROVIDERS[device]:
        raise UnsupportedError(
            f"The model was loaded on {session.get_providers()[0]}, not on {device}.",
            "This machine lacks the device or its driver, or the environment's runtime does not know it.",
            "Run it where the device is: `doit bundle:NAME` packs all that it takes.",
        )
    return session
