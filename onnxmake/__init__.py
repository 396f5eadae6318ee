"""onnxmake: make for ONNX models. `onnxmake.build` runs on the host, `onnxmake.model` inside a step's environment."""

__version__ = "0.1.0"
