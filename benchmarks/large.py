"""A checkpoint of 8 billion parameters (16 GB) built to 4 bits by commands that may use 2 GiB of memory, all their processes together.

    sudo python benchmarks/large.py FOLDER [--passes rtn kquant] [--limit 2048]

Run it in the environment that has onnxmake, on Linux, as root: a memory cgroup of version 1 or 2 holds the commands. FOLDER needs 30 GB;
the checkpoint, of Llama 3.1 8B's shape with random bfloat16 values in shards, is made there and kept: remove it afterwards.
The floor is what no build can beat: read, quantise in memory, write.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
from tabulate import tabulate  # noqa: E402

from onnxmake.build import paths  # noqa: E402
from onnxmake.model.kernels import quantize_rows  # noqa: E402
from onnxmake.model.safetensors import header_of, read_checkpoint  # noqa: E402

HIDDEN, INNER, VOCABULARY, LAYERS, KEYS = 4096, 14336, 128256, 32, 1024
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": 128009,
}
LAYER = {
    "input_layernorm": [HIDDEN],
    "self_attn.q_proj": [HIDDEN, HIDDEN],
    "self_attn.k_proj": [KEYS, HIDDEN],
    "self_attn.v_proj": [KEYS, HIDDEN],
    "self_attn.o_proj": [HIDDEN, HIDDEN],
    "post_attention_layernorm": [HIDDEN],
    "mlp.gate_proj": [INNER, HIDDEN],
    "mlp.up_proj": [INNER, HIDDEN],
    "mlp.down_proj": [HIDDEN, INNER],
}
SHARDS = 4
TILE = 1 << 24  # random values, which repeat


def shapes() -> dict[str, list[int]]:
    named = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN]}
    for layer in range(LAYERS):
        named |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in LAYER.items()}
    return named | {"model.norm.weight": [HIDDEN], "lm_head.weight": [VOCABULARY, HIDDEN]}


def make(folder: Path) -> None:
    """Write the checkpoint, unless it is there."""
    if (folder / "model.safetensors.index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(paths.TARGETS / "tiny" / name, folder / name)
    tile = np.random.default_rng(0).standard_normal(TILE, np.float32) * np.float32(0.02)
    data = memoryview(tile.astype(ml_dtypes.bfloat16).view(np.uint8))
    tensors, files = [*shapes().items()], {}
    for shard in range(SHARDS):
        here = tensors[shard * len(tensors) // SHARDS : (shard + 1) * len(tensors) // SHARDS]
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        files |= dict.fromkeys((tensor for tensor, _ in here), name)
        with open(folder / name, "wb", buffering=0) as file:
            file.write(header_of({tensor: ("BF16", shape) for tensor, shape in here}))
            for _, shape in here:
                left = 2 * math.prod(shape)
                while left:
                    left -= file.write(data[: min(left, len(data))])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def floor(folder: Path) -> float:
    """Seconds to read every weight, round it to 4 bits in memory and write the result."""
    rows, out = np.empty((4096, 4096), np.uint16), folder / "floor"
    quantize_rows(rows.view(ml_dtypes.bfloat16), "rtn", 4, 32, True)
    started = time.perf_counter()
    with open(out, "wb", buffering=0) as target:
        for shard in sorted(folder.glob("*.safetensors")):
            with open(shard, "rb", buffering=0) as source:
                while source.readinto(memoryview(rows).cast("B")):
                    packed, scales, *_ = quantize_rows(rows.view(ml_dtypes.bfloat16), "rtn", 4, 32, True)
                    target.write(packed)
                    target.write(scales)
    seconds = time.perf_counter() - started
    out.unlink()
    return seconds


class Group:
    """A memory cgroup: processes in it together use at most `limit` bytes, page cache included."""

    def __init__(self, limit: int):
        root = Path("/sys/fs/cgroup")
        self.first = (root / "memory").is_dir()
        self.folder = (root / "memory" if self.first else root) / "onnxmake-large"
        self.folder.mkdir(exist_ok=True)
        self._write("memory.limit_in_bytes" if self.first else "memory.max", limit)

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def run(self, command: list[str], environ: dict[str, str]) -> float:
        """Seconds that the command took. Ends this program where it failed."""
        procs = self.folder / "cgroup.procs"
        started = time.perf_counter()
        done = subprocess.run(
            ["sh", "-c", f'echo $$ > {procs}; exec "$@"', "sh", *command], env=environ, cwd=paths.ROOT
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}.")
        return time.perf_counter() - started

    def close(self) -> None:
        self.folder.rmdir()


def drop_cache() -> None:
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--passes", nargs="+", default=["rtn", "kquant"])
    parser.add_argument("--limit", type=int, default=2048, help="MiB")
    given = parser.parse_args()
    checkpoint, work = given.folder / "checkpoint", given.folder / "work"
    make(checkpoint)
    count = sum(math.prod(tensor.shape) for tensor in read_checkpoint(checkpoint).values())
    targets = work / "targets"
    targets.mkdir(parents=True, exist_ok=True)
    for name in given.passes:
        steps = ["export", "optimize", f"quantize_{name}", "package_genai"]
        passes = "".join(f'[[pass]]\nuse = "{step}"\n' for step in steps)
        (targets / f"large-{name}.toml").write_text(f'device = "cpu"\n[source]\npath = "{checkpoint}"\n{passes}')
    (work / "cache").mkdir(exist_ok=True)
    for shared in ("envs", "numba"):
        if not (work / "cache" / shared).exists():
            os.symlink(paths.CACHE / shared, work / "cache" / shared)
    environ = os.environ | {
        "ONNXMAKE_TARGETS": str(targets),
        "ONNXMAKE_CACHE": str(work / "cache"),
        "ONNXMAKE_OUTPUT": str(work / "output"),
        "ONNXMAKE_RUNNER": "venv",
    }
    rows, group = [], Group(given.limit << 20)
    for name in given.passes:
        drop_cache()
        rows.append(["floor: read, round, write", floor(checkpoint)])
        drop_cache()
        rows.append([f"doit build, {name}", group.run([sys.executable, "-m", "doit", f"build:large-{name}"], environ)])
        shutil.rmtree(work / "output" / "dist")
        shutil.rmtree(work / "cache" / "store" / "objects")
    group.close()
    shutil.rmtree(work)
    shown = [[name, seconds, count / seconds / 1e6] for name, seconds in rows]
    print(
        tabulate(shown, [f"{count / 1e9:.2f} billion weights", "seconds", "million a second"], "github", floatfmt=".1f")
    )


if __name__ == "__main__":
    main()
