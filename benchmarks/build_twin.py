"""Build a checkpoint as onnxmake's steps do, in one process and without its store: `python build_twin.py FOLDER OUT DEVICE`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx_ir as ir  # noqa: E402

from onnxmake.model import canonical  # noqa: E402
from onnxmake.model.assemble import assemble  # noqa: E402
from onnxmake.model.capture import capture  # noqa: E402
from onnxmake.model.optimize import optimize  # noqa: E402
from onnxmake.model.safetensors import read_checkpoint  # noqa: E402


def build(folder: Path, out: Path, device: str) -> None:
    """Write out/model.onnx and its weights, in the type that the checkpoint has."""
    out.mkdir(parents=True, exist_ok=True)
    shapes = {name: list(tensor.shape) for name, tensor in read_checkpoint(folder).items()}
    canonical.save(capture(json.loads((folder / "config.json").read_text("utf-8")), shapes), out / "graph.onnx")
    model = ir.load(out / "graph.onnx")
    optimize(model, device)
    assemble(model, device, folder, out, lambda done, total: None)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
