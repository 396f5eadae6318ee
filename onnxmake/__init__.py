"""onnxmake: make for ONNX models. `onnxmake.build` runs on the host, `onnxmake.model` inside a step's environment."""

import importlib

__version__ = "0.1.0"


def __getattr__(name: str):
    """What `onnxmake.api` offers, loaded when it is asked for, and by name: steps import this file, and reach no host side."""
    if name == "build":  # a package that can be called
        return importlib.import_module("onnxmake.build")
    api = importlib.import_module("onnxmake.api") if not name.startswith("_") else None
    if name in getattr(api, "__all__", ()):
        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
