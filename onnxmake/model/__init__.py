"""The step side: what passes may use. Never imports onnxmake.build."""
