"""A checkpoint of a given architecture without its training: random bfloat16 weights.

Or a sparse file of zeros that takes no space.

    python -m onnxmake.model.skeleton CONFIG.json FOLDER [--random]

Needs the torch environment. Serves benchmarks, and the graphs of checkpoints that are not at hand.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
import transformers

from onnxmake.model.capture.config import load_config, model_class
from onnxmake.model.capture.weightless import weightless
from onnxmake.model.safetensors import header_of


def make_skeleton(config: Path, folder: Path, random: bool) -> None:
    """Write config.json and model.safetensors (one file, names and shapes as Transformers has them, tied weights
    once)."""
    transformers.logging.set_verbosity_error()
    architecture = json.loads(config.read_text())
    settings = load_config(architecture)
    model = weightless(model_class(architecture, settings), settings, "eager", "eager", ())
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config, folder / "config.json")
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header_of({name: ("BF16", shape) for name, shape in shapes.items()}))
        start = file.tell()
        if random:
            generator = torch.Generator().manual_seed(0)
            for shape in shapes.values():
                values = torch.randn(shape, generator=generator) * (0.02 if len(shape) > 1 else 0.1) + (
                    1.0 if len(shape) == 1 else 0.0
                )
                file.write(values.to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
        file.truncate(start + sum(2 * math.prod(shape) for shape in shapes.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", action="store_true", help="random values instead of zeros")
    options = parser.parse_args()
    make_skeleton(options.config, options.folder, options.random)
