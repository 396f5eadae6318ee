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

from onnxmake.model.capture.config import load_config
from onnxmake.model.capture.weightless import weightless_causal_lm


def make_skeleton(config: Path, folder: Path, random: bool) -> None:
    """Write config.json and model.safetensors (one file, names and shapes as Transformers has them, tied weights
    once)."""
    transformers.logging.set_verbosity_error()
    model = weightless_causal_lm(load_config(json.loads(config.read_text())), "eager", "eager", ())
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config, folder / "config.json")
    header, end = {}, 0
    for name, parameter in model.named_parameters():
        size = 2 * math.prod(parameter.shape)
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        if random:
            generator = torch.Generator().manual_seed(0)
            for tensor in header.values():
                shape = tensor["shape"]
                values = torch.randn(shape, generator=generator) * (0.02 if len(shape) > 1 else 0.1) + (
                    1.0 if len(shape) == 1 else 0.0
                )
                file.write(values.to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
        file.truncate(start + end)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", action="store_true", help="random values instead of zeros")
    options = parser.parse_args()
    make_skeleton(options.config, options.folder, options.random)
