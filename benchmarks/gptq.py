"""GPTQ beside onnxruntime's on the embedded model: the same products, bits, blocks, calibration tokens and damping.

    python benchmarks/gptq.py [--windows 110]

Run it in the environment of the tests, with tiny-fp32-cpu built. Embedding and head stay float32, which onnxruntime's does not
quantise; activations stay float32. Divergence is as quality.py has it, of the models as they are shipped.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402
from onnxruntime.quantization.neural_compressor.weight_only import gptq_quantize  # noqa: E402
from quality import SETTINGS, compared, opened, tokens  # noqa: E402
from tabulate import tabulate  # noqa: E402

from onnxmake.build import paths  # noqa: E402
from onnxmake.model.calibration import text_feed, windows  # noqa: E402

TEXT = paths.TARGETS / "texts" / "calibration.txt"
SAMPLES, TOKENS = 128, 256
OURS = {"rtn": "quantize_rtn", "gptq": "quantize_gptq"}


def target(method: str, settings: tuple[int, int, bool]) -> str:
    bits, block, symmetric = settings
    calibrated = f"samples = {SAMPLES}\ntokens = {TOKENS}\n" if method == "quantize_gptq" else ""
    return f"""like = "tiny-fp32-cpu"
[[pass]]
use = "export"
[[pass]]
use = "optimize"
[[pass]]
use = "{method}"
bits = {bits}
block_size = {block}
symmetric = {str(symmetric).lower()}
accuracy_level = 1
lm_head = "keep"
embeddings = "keep"
{calibrated}
[[pass]]
use = "package_genai"
"""


def ours(method: str, settings: tuple[int, int, bool], work: Path) -> Path:
    """The model, of an ordinary build."""
    targets = work / "targets"
    targets.mkdir(exist_ok=True)
    name = f"{method}-{'-'.join(map(str, settings))}".lower().replace("_", "-")
    (targets / f"{name}.toml").write_text(target(method, settings))
    known = {"ONNXMAKE_TARGETS": os.pathsep.join([str(paths.TARGETS), str(targets)]), "ONNXMAKE_OUTPUT": str(work)}
    command = [sys.executable, "-m", "doit", f"build:{name}"]
    subprocess.run(command, env=os.environ | known, cwd=paths.ROOT, check=True, stdout=subprocess.DEVNULL)
    return work / "dist" / name / "model.onnx"


def plain(file: Path) -> onnx.ModelProto:
    """The float32 model with the products that onnxruntime's GPTQ knows: MatMul. The head, whose weight the embedding shares, is
    left as it is."""
    model = ir.external_data.load_to_model(ir.load(file))
    shared = {node.inputs[0] for node in model.graph if node.op_type == "Gather"}
    for node in model.graph:
        if node.op_type == "FusedMatMul" and (weight := node.inputs[1]) not in shared:
            weight.const_value = ir.tensor(np.ascontiguousarray(weight.const_value.numpy().T), name=weight.name)
            weight.shape = weight.const_value.shape
            node.domain, node.op_type = "", "MatMul"
            node.attributes.clear()
    return ir.to_proto(model)


def theirs(model: onnx.ModelProto, settings: tuple[int, int, bool], out: Path) -> Path:
    """onnxruntime's."""
    bits, block, symmetric = settings
    inputs = ir.from_proto(model).graph.inputs
    rows = windows(paths.TARGETS / "tiny", TEXT, SAMPLES, TOKENS)
    with contextlib.redirect_stdout(io.StringIO()):
        made = gptq_quantize(
            model,
            [(text_feed(inputs, ids), None) for ids in rows],
            num_bits=bits,
            group_size=block,
            scheme="sym" if symmetric else "asym",
            n_samples=-1,
            accuracy_level=1,
        )
    onnx.save(made.model, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, help="of the text's 110")
    rows = tokens(parser.parse_args().windows)
    file = paths.DIST / "tiny-fp32-cpu" / "model.onnx"
    if not file.exists():
        sys.exit("Build it first: doit build:tiny-fp32-cpu")
    table = []
    with tempfile.TemporaryDirectory(prefix="onnxmake-gptq-") as folder:
        work = Path(folder)
        for settings in SETTINGS:
            models = {"float32": file} | {name: ours(use, settings, work) for name, use in OURS.items()}
            models["onnxruntime gptq"] = theirs(plain(file), settings, work / "theirs.onnx")
            for found in compared({name: opened(made) for name, made in models.items()}, rows):
                table.append([*settings, *found])
    headers = ["bits", "block", "symmetric", "method", "perplexity", "divergence"]
    print(tabulate(table, headers, "github", floatfmt=("", "", "", "", ".4f", ".5f")))


if __name__ == "__main__":
    main()
