"""What tuning the embedded model on C headers gives: perplexity of files that were kept out, by method.

    python benchmarks/finetune.py [--steps 40]

Run it in the environment that has onnxmake. Each variant is built and checked by doit, as tiny-lora-cpu says but for its method.
Seconds and MB are those of the step that tunes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tabulate import tabulate  # noqa: E402

from onnxmake.build import history, paths  # noqa: E402

TUNE = """[[pass]]
use = "finetune"
data = "{texts}/headers.jsonl"
text_template = "/* {{name}} */\\n{{code}}"
learning_rate = 0.002
max_steps = {steps}
method = "{method}"
"""
REST = """[[pass]]
use = "export"
[[pass]]
use = "optimize"
[[pass]]
use = "quantize_rtn"
block_size = 16
symmetric = false
lm_head = "int8"
[[pass]]
use = "package_genai"
[check]
text = "{texts}/headers.txt"
"""


def measured(method: str, steps: int, output: Path) -> list:
    """One row of the table."""
    targets, name = output / "targets", method or "none"
    targets.mkdir(exist_ok=True)
    source = f'device = "cpu"\n[source]\npath = "{paths.TARGETS / "tiny"}"\n'
    tune = TUNE.format(texts=paths.TARGETS / "texts", steps=steps, method=method) if method else ""
    (targets / f"{name}.toml").write_text(source + tune + REST.format(texts=paths.TARGETS / "texts"))
    around = os.environ | {"ONNXMAKE_TARGETS": str(targets), "ONNXMAKE_OUTPUT": str(output)}
    subprocess.run([sys.executable, "-m", "doit", f"check:{name}"], cwd=paths.ROOT, env=around, check=True)
    found = json.loads((output / "dist" / name / "manifest.json").read_text())["quality"]["metrics"]
    first, record = history.chain(name, output / "build")[0]
    spent = [f"{record['seconds']:.0f}", f"{record['memory'] / 1e6:,.0f}"] if first == "finetune" else ["", ""]
    return [method or "not tuned", *spent, found["perplexity_unquantised"], found["perplexity"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(method, steps, Path(folder)) for method in ("", "lora", "dora", "qlora")]
    print(tabulate(rows, ["", "s", "MB", "perplexity", "of int4"], tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
