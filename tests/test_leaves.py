"""Each leaf of the shipped targets' keys, edited in turn: exactly the steps that must run again do, and no other."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from builder import Builder

from onnxmake.build import paths, store
from onnxmake.build.files import read_record

NAMES = ("tiny-fp32-cpu", "tiny-int4-cpu", "tiny-int8-cpu")
BUILDS = tuple(f"build:{name}" for name in NAMES)
PACKAGES = {f"package_genai {name}" for name in NAMES}
QUANTIZED = {"quantize_rtn tiny-int4-cpu", "quantize_rtn tiny-int8-cpu"}
AFTER_OPTIMIZE = PACKAGES | QUANTIZED
SHARED = {f"{step} {', '.join(NAMES)}" for step in ("export", "optimize")}
EVERY = AFTER_OPTIMIZE | SHARED

# what is edited -> the steps that cannot stay, by hand
STALE = {
    "passes/export.py": EVERY,
    "onnxmake/model/capture/attention.py": EVERY,
    "onnxmake/model/step.py": EVERY,
    "onnxmake/model/boot.py": EVERY,
    "onnxmake/errors.py": EVERY,
    "containers/torch/requirements.lock": EVERY,
    "passes/optimize.py": EVERY - {f"export {', '.join(NAMES)}"},
    "onnxmake/model/simplify.py": EVERY - {f"export {', '.join(NAMES)}"},
    "onnxmake/model/lowering/cpu.py": EVERY - {f"export {', '.join(NAMES)}"},
    "containers/cpu/requirements.lock": EVERY - {f"export {', '.join(NAMES)}"},
    "passes/quantize_rtn.py": QUANTIZED | {"package_genai tiny-int4-cpu", "package_genai tiny-int8-cpu"},
    "passes/package_genai.py": PACKAGES,
    "onnxmake/model/genai.py": PACKAGES,
    "onnxmake/model/kernels.py": PACKAGES,
    "targets/tiny/model.safetensors": PACKAGES,
    "targets/tiny/tokenizer.json": PACKAGES,
    "targets/tiny/generation_config.json": PACKAGES,
    "passes/cast.py": set(),
    "onnxmake/model/lowering/portable.py": EVERY - {f"export {', '.join(NAMES)}"},  # what the cpu table falls back on
    "onnxmake/model/hub.py": set(),
    "onnxmake/build/store.py": set(),
    "README.md": set(),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout that tests may edit, with the three targets built in its own output, from the user's store."""
    root = tmp_path_factory.mktemp("leaves")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("onnxmake", "passes", "containers", "targets", "docs"):
        shutil.copytree(paths.ROOT / name, root / "checkout" / name, ignore=ignored)
    for name in ("dodo.py", "pyproject.toml", "README.md"):
        shutil.copy(paths.ROOT / name, root / "checkout")
    builder = Builder(root / "out")
    builder.root = root / "checkout"
    builder.run(*BUILDS)
    return builder


def plan(builder: Builder) -> dict[str, str]:
    """'step targets' -> verdict, of all steps."""
    rows = {}
    for line in builder.run("plan", *BUILDS).splitlines()[2:-1]:
        step, users, verdict, *_ = [cell.strip() for cell in line.split("  ") if cell.strip()]
        if step not in ("source", "dist"):
            rows[f"{step} {users}"] = verdict
    return rows


class edited:
    """A file with other content for a while; its times come back with it."""

    def __init__(self, path: Path):
        self.path, self.content, self.stat = path, path.read_bytes(), path.stat()

    def __enter__(self):
        if self.path.suffix == ".json":
            self.path.write_text(json.dumps(json.loads(self.content), indent=3) + "\n\n")
        elif self.path.suffix == ".safetensors":
            self.path.write_bytes(self.content[:-1] + bytes([self.content[-1] ^ 1]))
        else:
            self.path.write_bytes(self.content + b"\n# edited\n")

    def __exit__(self, *_):
        self.path.write_bytes(self.content)
        os.utime(self.path, ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))


def documents(builder: Builder) -> dict[str, set[str]]:
    """'step targets' -> files of the checkout that its key names."""
    named: dict[str, set[str]] = {}
    users: dict[str, list[str]] = {}
    for name in NAMES:
        for step in read_record(builder.output / "build" / "targets" / f"{name}.json")["steps"]:
            users.setdefault(step["id"], []).append(name)
    for identity, names in users.items():
        key = store.document(read_record(builder.output / "build" / "steps" / f"{identity}.json")["key"])
        lock = f"containers/{key['environment']['name']}/requirements.lock"
        read = {f"targets/tiny/{n.removeprefix('checkpoint/')}" for n in key["inputs"] if n.startswith("checkpoint/")}
        named[f"{key['pass']} {', '.join(names)}"] = {*key["code"], lock, *read}
    return named


@pytest.mark.parametrize("file", STALE)
def test_an_edited_leaf_makes_exactly_its_steps_and_those_behind_them_stale(checkout, file):
    with edited(checkout.root / file):
        verdicts = plan(checkout)
    assert set(verdicts) == EVERY
    assert {step for step, verdict in verdicts.items() if verdict != "up to date"} == STALE[file]


def test_every_file_that_a_key_names_is_a_leaf_that_counts(checkout):
    named = documents(checkout)
    assert set(named) == EVERY
    for file in sorted(set().union(*named.values()) - set(STALE)):
        if not (checkout.root / file).exists():  # architecture.json and tensors.json are made from config and weights
            continue
        with edited(checkout.root / file):
            verdicts = plan(checkout)
        direct = {step for step, files in named.items() if file in files}
        stale = {step for step, verdict in verdicts.items() if verdict != "up to date"}
        assert direct <= stale, file
        assert {step for step in stale if verdicts[step] == "run"} <= direct, file
    assert set(plan(checkout).values()) == {"up to date"}


@pytest.mark.parametrize(
    "file, ran",
    [
        ("passes/quantize_rtn.py", {"quantize_rtn": 2}),
        ("onnxmake/model/simplify.py", {"optimize": 1}),
        ("targets/tiny/tokenizer_config.json", {"package_genai": 3}),
        ("targets/tiny/model.safetensors", {"package_genai": 3}),
        ("README.md", {}),
    ],
)
def test_a_build_runs_exactly_those_whose_key_changed_and_stops_where_bytes_are_the_same(checkout, tmp_path, file, ran):
    own = Builder(tmp_path / "out", tmp_path / "cache")
    own.root = checkout.root
    (own.cache / "store").symlink_to(tmp_path / "copy")
    shutil.copytree(paths.CACHE / "store", tmp_path / "copy", copy_function=os.link)
    own.run(*BUILDS)
    with edited(checkout.root / file):
        printed = own.run(*BUILDS)
    words = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    assert Counter(w[0] for w in words if w[1] == "ran") == ran
    assert not [w for w in words if w[1] == "restored"]


@pytest.mark.parametrize(
    "old, new, stale",
    [
        ("block_size = 16", "block_size = 32", {"quantize_rtn tiny-int4-cpu", "package_genai tiny-int4-cpu"}),
        ("symmetric = false", "symmetric = true", {"quantize_rtn tiny-int4-cpu", "package_genai tiny-int4-cpu"}),
        ("new_tokens = 64", "new_tokens = 65", set()),
    ],
)
def test_an_edited_option_concerns_its_target_only(checkout, old, new, stale):
    file = checkout.root / "targets" / "tiny-int4-cpu.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    verdicts = plan(checkout)
    file.write_text(text)
    assert {step for step, verdict in verdicts.items() if verdict != "up to date"} == stale


@pytest.mark.slow
def test_the_export_runs_once_for_all_three(checkout, tmp_path):
    own = Builder(tmp_path / "out", tmp_path / "cache")
    own.root = tmp_path / "checkout"
    shutil.copytree(checkout.root, own.root, ignore=shutil.ignore_patterns("prebuilt", "__pycache__"))
    words = [line.split() for line in own.run("-n", "2", *BUILDS).splitlines() if line.startswith("  ")]
    assert Counter(tuple(w[:2]) for w in words if w[0] in ("export", "optimize", "quantize_rtn", "package_genai")) == {
        ("export", "ran"): 1,
        ("optimize", "ran"): 1,
        ("quantize_rtn", "ran"): 2,
        ("package_genai", "ran"): 3,
    }
