"""A checkout with passes of a few lines: real host, real processes, real store, without the weight of real models."""

import json
import os
import shutil
import struct
from pathlib import Path

from builder import Builder

from onnxmake.build import paths

PASSES = {
    "begin": '''"""Numbers from the checkpoint's settings."""

import json
from dataclasses import dataclass

ENVIRONMENT = "cpu"
READS = ("checkpoint/architecture.json",)


@dataclass(frozen=True)
class Options:
    width: int = 4


def run(src, out, o):
    size = json.loads((src / "checkpoint" / "architecture.json").read_text())["size"]
    (out / "notes").mkdir()
    (out / "notes" / "size.txt").write_text(str(size))
    (out / "model.json").write_text(json.dumps([n * size for n in range(o.width)]))
''',
    "scale": '''"""Each number times a factor."""

import json
from dataclasses import dataclass

ENVIRONMENT = "cpu"
READS = ("model.json",)


@dataclass(frozen=True)
class Options:
    factor: int = 2


def run(src, out, o):
    numbers = json.loads((src / "model.json").read_text())
    (out / "model.json").write_text(json.dumps([n * o.factor for n in numbers]))
''',
    "finish": '''"""Numbers and the checkpoint's bytes."""

from dataclasses import dataclass

ENVIRONMENT = "cpu"
READS = ("model.json", "checkpoint/model.safetensors", "checkpoint/tokenizer.json?")


@dataclass(frozen=True)
class Options:
    pass


def run(src, out, o):
    (out / "data").mkdir()
    (out / "data" / "model.bin").write_bytes((src / "checkpoint" / "model.safetensors").read_bytes() * 4)
    (out / "model.json").write_bytes((src / "model.json").read_bytes())
    if (src / "checkpoint" / "tokenizer.json").exists():
        (out / "tokenizer.json").write_bytes((src / "checkpoint" / "tokenizer.json").read_bytes())
''',
}
STUBS = {"canonical": '"""Nothing."""\n', "kernels": '"""Nothing."""\n'}  # what a process is prepared with
CHAIN = (("begin", {}), ("scale", {}), ("finish", {}))


def weights(numbers: bytes = bytes(range(256)) * 64) -> bytes:
    """A safetensors file with one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(numbers)], "data_offsets": [0, len(numbers)]}}).encode()
    return struct.pack("<Q", len(header)) + header + numbers


class Toy(Builder):
    """doit in a checkout of its own under `folder`, with cache and output there too, unless they are given."""

    def __init__(self, folder: Path, cache: Path | None = None, output: Path | None = None):
        self.root = folder / "checkout"
        if not self.root.exists():
            _make(self.root)
        super().__init__(output or folder / "out", cache or folder / "cache")

    def target(self, name: str, chain=CHAIN, checkpoint: str = "checkpoint") -> str:
        """Add a target; returns build:<name>."""
        lines = [f'# {name}.\ndevice = "cpu"\n[source]\npath = "{checkpoint}"\n']
        for use, options in chain:
            lines.append(f'[[pass]]\nuse = "{use}"\n' + "".join(f"{k} = {json.dumps(v)}\n" for k, v in options.items()))
        (self.root / "targets" / f"{name}.toml").write_text("".join(lines))
        return f"build:{name}"

    def write_pass(self, name: str, run: str, reads: str = '("model.json",)', head: str = "") -> None:
        """Add a pass whose body is `run`."""
        body = "\n".join(f"    {line}" for line in run.splitlines())
        text = f"""\"\"\"{name}.\"\"\"\n\nfrom dataclasses import dataclass\n\nENVIRONMENT = "cpu"\nREADS = {reads}\n{head}\n
@dataclass(frozen=True)
class Options:
    value: int = 0\n\n\ndef run(src, out, o):\n{body}\n"""
        (self.root / "passes" / f"{name}.py").write_text(text)


def _make(root: Path) -> None:
    shutil.copytree(paths.ROOT / "onnxmake", root / "onnxmake", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copy(paths.ROOT / name, root)
    for folder in ("passes", "containers/cpu", "targets/checkpoint"):
        (root / folder).mkdir(parents=True)
    for name, text in STUBS.items():
        (root / "onnxmake" / "model" / f"{name}.py").write_text(text)
    for name, text in PASSES.items():
        (root / "passes" / f"{name}.py").write_text(text)
    for name in ("requirements.lock", "requirements.in"):
        (root / "containers" / "cpu" / name).write_text("# nothing\n")
    for name in ("base.toml", "install.sh", "cpu/Dockerfile", "cpu/device.toml"):
        shutil.copy(paths.CONTAINERS / name, root / "containers" / name)
    checkpoint = root / "targets" / "checkpoint"
    (checkpoint / "config.json").write_text(json.dumps({"size": 3}))
    (checkpoint / "model.safetensors").write_bytes(weights())


def tree(folder: Path) -> dict[str, bytes]:
    """Relative name -> content of every file."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def leftovers(toy: Builder) -> list[str]:
    """What a run should not leave: working folders, locks, temporary files."""
    found = []
    for root in (toy.output, toy.cache):
        for folder, names, files in os.walk(root):
            if Path(folder).name in ("envs", "numba"):
                names.clear()
            found += [f"{folder}/{n}" for n in (*names, *files) if n.startswith((".tmp", "tmp", ".new-", ".old-"))]
    locks = toy.cache / "locks"
    return found + ([str(p) for p in locks.iterdir()] if locks.exists() else [])


def keep(toy: Toy) -> Toy:
    """Note everything of the toy as it is now, for `again`."""
    for file in toy.cache.glob("digests.sqlite*"):
        file.unlink()
    shutil.copytree(toy.root.parent, toy.root.parent.with_name("copy"), symlinks=True)
    return toy


def again(toy: Toy) -> Toy:
    """The toy as it was kept, whatever was done to it since: at the same place, as the checkpoint's path names its steps."""
    folder = toy.root.parent
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("copy"), folder, symlinks=True)
    return toy
