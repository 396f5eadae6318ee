"""How fast a decoder of a given shape runs, by options: tokens a second of a prompt of 128 and of 64 that follow, medians of
alternating runs.

    python benchmarks/speed.py --checkpoint FOLDER [--rival PYTHON] [--llama PYTHON] [--rounds 5]

Run it in the environment that has onnxmake. The checkpoint is any of the shape of Qwen2.5 0.5B; speed does not depend on what
weights hold, so they are rounded to nearest: GPTQ and AWQ write the same operators. --rival: a Python that has onnxruntime-genai's
model builder, run with its defaults. --llama: one that has what llama.py asks for. Sizes are of weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compare import decode_speed  # noqa: E402
from tabulate import tabulate  # noqa: E402

from onnxmake.build import environment, paths  # noqa: E402

LAST = '[[pass]]\nuse = "package_genai"\n'
ALL = LAST + 'logits = "all"\n'
VARIANTS = {  # name -> options of the quantiser, and what packs
    "block 32, logits of all tokens": ("block_size = 32", ALL),
    "block 32": ("block_size = 32", LAST),
    "block 64": ("block_size = 64", LAST),
    "block 128": ("block_size = 128", LAST),
    "block 128, zero points": ("block_size = 128\nsymmetric = false", LAST),
    "block 128, head and embedding of 8 bits": ('block_size = 128\nlm_head = "int8"', LAST),
    "block 128, float32 activations": ("block_size = 128\naccuracy_level = 1", LAST),
    "block 128, 8 bits": ("block_size = 128\nbits = 8", LAST),
}


def built(checkpoint: Path, work: Path) -> dict[str, Path]:
    """Name -> folder of every variant, each an ordinary build."""
    targets, output = work / "targets", work / "output"
    targets.mkdir()
    for number, (options, package) in enumerate(VARIANTS.values()):
        quantiser = f'[[pass]]\nuse = "quantize_rtn"\n{options}\n'
        passes = f'[[pass]]\nuse = "export"\n[[pass]]\nuse = "optimize"\n{quantiser}{package}'
        (targets / f"speed{number}.toml").write_text(f'like = "qwen-int4-cpu"\n{passes}')
    known = {"ONNXMAKE_TARGETS": os.pathsep.join([str(paths.TARGETS), str(targets)]), "ONNXMAKE_OUTPUT": str(output)}
    for number in range(len(VARIANTS)):
        command = [sys.executable, "-m", "doit", f"source={checkpoint}", f"build:speed{number}"]
        subprocess.run(command, env=os.environ | known, cwd=paths.ROOT, check=True, stdout=subprocess.DEVNULL)
    return {name: output / "dist" / f"speed{number}" for number, name in enumerate(VARIANTS)}


def rival(python: str, checkpoint: Path, work: Path) -> Path:
    out = work / "rival"
    builder = [python, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu", "-c", str(work / "cache")]
    subprocess.run([*builder, "-i", str(checkpoint), "-o", str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


def spoken(program: list[str]) -> dict[str, float]:
    """The JSON in a program's last line."""
    return json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rival")
    parser.add_argument("--llama")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onnxmake-speed-") as folder:
        work, python = Path(folder), str(environment.ensure("cpu"))
        folders = built(given.checkpoint.resolve(), work)
        if given.rival:
            folders = {"GenAI builder, its default": rival(given.rival, given.checkpoint, work)} | folders
        runs = {name: lambda folder=folder: decode_speed(python, folder) for name, folder in folders.items()}
        sizes = {name: sum(f.stat().st_size for f in d.glob("*.data")) / 1e6 for name, d in folders.items()}
        if given.llama:
            program = [
                given.llama,
                str(Path(__file__).with_name("llama.py")),
                str(given.checkpoint),
                str(work / "llama"),
            ]
            sizes["llama.cpp, Q4_0"] = spoken(program)["mb"]
            runs["llama.cpp, Q4_0"] = lambda: spoken(program)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(given.rounds):
            for name, run in runs.items():
                found[name].append(run())
    rows = [
        [name, sizes[name], *(statistics.median(run[kind] for run in all_runs) for kind in ("prefill", "decode"))]
        for name, all_runs in found.items()
    ]
    print(tabulate(rows, ["4 bits unless said", "MB", "prompt", "then"], "github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
