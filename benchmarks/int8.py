"""int8 with quantised activations: all-MiniLM-L6-v2 by each pass, and by onnxruntime.quantization, against float32.

    python benchmarks/int8.py --checkpoint FOLDER [--rounds 15] [--threads 1]

Needs onnx and sympy beside the test dependencies, which onnxruntime.quantization imports. For 200 sentences, half of them of
targets/tiny/heldout.txt, the cosine to the float32 model's vector, one by one and in batches of eight; the bytes of model and
weights; and milliseconds of one run, medians of alternating rounds. Seconds are of the process's CPU time where there is one
thread, which other work on the machine disturbs least. Writes build/bench/int8.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from tabulate import tabulate
from tokenizers import Tokenizer

from onnxmake.build import paths

FP32, PORTABLE, RIVAL = "float32", "float32, standard ops", "onnxruntime.quantization"
OURS = {  # row -> the pass and its options
    "quantize_dynamic": 'use = "quantize_dynamic"',
    "quantize_dynamic, 7 bits": 'use = "quantize_dynamic"\nbits = 7',
    "quantize_dynamic, by tensor": 'use = "quantize_dynamic"\nactivations = "tensor"',
    "quantize_static, minmax": 'use = "quantize_static"\nmethod = "minmax"',
    "quantize_static, percentile": 'use = "quantize_static"\nmethod = "percentile"',
    "quantize_static, entropy": 'use = "quantize_static"\nmethod = "entropy"',
    "quantize_rtn, 8 bits": 'use = "quantize_rtn"\nbits = 8',
}
SHAPES = [(1, 16), (1, 64), (1, 256), (8, 32), (32, 64)]  # batch, tokens

SUBJECTS = [
    "The old captain",
    "My neighbour's daughter",
    "A committee of experts",
    "Nobody",
    "The company",
    "Every student",
]
ACTS = [
    "has bought",
    "would never recommend",
    "is looking for",
    "wrote a long letter about",
    "quietly repaired",
    "measured",
]
THINGS = ["a second-hand bicycle", "the cheapest hotel in town", "the results of the election", "a new kind of battery"]
ENDS = [".", " before the winter came.", ", although it was late.", " for 25 euros?", " in Buenos Aires.", "!"]


def sentences() -> list[str]:
    """100 of the held-out text, which is of another kind than what is calibrated with, and 100 plain ones."""
    text = (paths.TARGETS / "tiny" / "heldout.txt").read_text("utf-8")
    pieces = [re.sub(r"\s+", " ", piece).strip() for piece in text.split("\n\n")]
    pieces = [piece for piece in pieces if 20 < len(piece) < 400]
    plain = [f"{s} {a} {t}{e}" for s in SUBJECTS for a in ACTS for t in THINGS for e in ENDS]
    return pieces[:: len(pieces) // 100][:100] + plain[:: len(plain) // 100][:100]


def target(source: Path, device: str, *passes: str) -> str:
    steps = ['use = "export"', 'use = "pool"', f'use = "optimize"\ndevice = "{device}"', *passes]
    steps.append(f'use = "package_onnx"\ndevice = "{device}"')
    return f'device = "cpu"\n[source]\npath = "{source}"\n' + "".join(f"[[pass]]\n{step}\n" for step in steps)


def build(checkpoint: Path, work: Path) -> dict[str, Path]:
    """Row -> model file, for every one of ours, by doit."""
    wanted = {FP32: target(checkpoint, "cpu"), PORTABLE: target(checkpoint, "portable")}
    wanted |= {name: target(checkpoint, "cpu", step) for name, step in OURS.items()}
    (work / "targets").mkdir()
    for number, text in enumerate(wanted.values()):
        (work / "targets" / f"int8-{number}.toml").write_text(text)
    environ = os.environ | {"ONNXMAKE_TARGETS": str(work / "targets"), "ONNXMAKE_OUTPUT": str(work)}
    tasks = [f"build:int8-{number}" for number in range(len(wanted))]
    done = subprocess.run(
        [sys.executable, "-m", "doit", *tasks], cwd=paths.ROOT, env=environ, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return {name: work / "dist" / f"int8-{number}" / "model.onnx" for number, name in enumerate(wanted)}


def rival(portable: Path, work: Path) -> dict[str, Path]:
    """The same by onnxruntime.quantization, which reads standard ops, after the preparation that it asks for."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = work / "rival"
    folder.mkdir()
    onnx.save(onnx.load(portable), folder / "whole.onnx")
    quant_pre_process(str(folder / "whole.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
    found = {}
    for name, options in {RIVAL: {}, f"{RIVAL}, per channel": {"per_channel": True}}.items():
        found[name] = folder / f"{len(found)}.onnx"
        quantize_dynamic(str(folder / "prepared.onnx"), str(found[name]), weight_type=QuantType.QInt8, **options)
    return found


def size(model: Path) -> int:
    return sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))


def opened(model: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def vectors(session: ort.InferenceSession, tokenizer: Tokenizer, texts: list[str], batch: int) -> np.ndarray:
    found = []
    for start in range(0, len(texts), batch):
        encoded = tokenizer.encode_batch(texts[start : start + batch])
        fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        feed = {name: np.array([getattr(e, field) for e in encoded], np.int64) for name, field in fields.items()}
        found.append(session.run(["sentence_embedding"], feed)[0])
    return np.concatenate(found)


def cosines(sessions: Mapping[str, ort.InferenceSession], tokenizer: Tokenizer, batch: int) -> dict[str, np.ndarray]:
    """Row -> each sentence's cosine to the float32 model's vector; vectors are of length 1."""
    made = {name: vectors(session, tokenizer, sentences(), batch) for name, session in sessions.items()}
    return {name: (vector * made[FP32]).sum(1) for name, vector in made.items()}


def milliseconds(sessions: Mapping[str, ort.InferenceSession], rounds: int, threads: int) -> dict[str, list[float]]:
    """Row -> for each of SHAPES the median of alternating runs."""
    clock = time.process_time if threads == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for shape in SHAPES:
        ids = np.random.default_rng(0).integers(1000, 30000, shape)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        here: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(rounds + 1):  # the first warms up
            for name, session in sessions.items():
                started = clock()
                session.run(["sentence_embedding"], feed)
                here[name].append(1e3 * (clock() - started))
        for name, times in here.items():
            taken[name].append(float(np.median(times[1:])))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = build(arguments.checkpoint.resolve(), Path(folder))
        models |= rival(models[PORTABLE], Path(folder))
        tokenizer = Tokenizer.from_file(str(models[FP32].with_name("tokenizer.json")))
        tokenizer.enable_truncation(256)
        tokenizer.enable_padding()
        sizes, sessions = (
            {name: act(model) for name, model in models.items()}
            for act in (size, lambda m: opened(m, arguments.threads))
        )
        alone, together = (cosines(sessions, tokenizer, batch) for batch in (1, 8))
        taken = milliseconds(sessions, arguments.rounds, arguments.threads)
    rows = {
        name: {
            "bytes": sizes[name],
            "cosine": [float(c) for group in (alone, together) for c in (group[name].mean(), group[name].min())],
            "milliseconds": taken[name],
        }
        for name in models
    }
    head = ["", "MB", "% of float32", "cosine alone", "least", "in eights", "least", *(f"{b} x {t}" for b, t in SHAPES)]
    print(
        tabulate(
            [
                [name, row["bytes"] / 1e6, 100 * row["bytes"] / sizes[FP32], *row["cosine"], *row["milliseconds"]]
                for name, row in rows.items()
            ],
            head,
            tablefmt="github",
            floatfmt=("", ".1f", ".1f", *[".4f"] * 4, *[".2f"] * len(SHAPES)),
        )
    )
    out = paths.BUILD / "bench" / "int8.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"threads": arguments.threads, "shapes": SHAPES, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
