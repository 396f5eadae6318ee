"""What must not be in the repository. Lint and types are lines of .ci/run: `ruff check . && ruff format --check . && mypy`."""

import re
import subprocess
import tomllib

from onnxmake.build import paths


def test_locks_are_hashed_and_name_no_index():
    for lock in paths.CONTAINERS.glob("*/requirements.lock"):
        text = lock.read_text()
        pinned = [line for line in text.splitlines() if "==" in line]
        assert pinned and text.count("--hash=sha256:") >= len(pinned)
        assert "://" not in text and "--index-url" not in text and "--find-links" not in text


def test_no_file_is_large_but_the_checkpoint():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    large = [
        name for name in tracked if (paths.ROOT / name).is_file() and (paths.ROOT / name).stat().st_size > 1_000_000
    ]
    assert set(large) <= {"targets/tiny/model.safetensors"}


def test_tests_run_with_the_versions_that_steps_run_with():
    extra = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    pinned = dict(line.split("==") for line in extra if "==" in line)
    for lock in paths.CONTAINERS.glob("*/requirements.lock"):
        locked = dict(re.findall(r"^([a-z-]+)==([0-9.]+)", lock.read_text(), re.MULTILINE))
        names = [
            line.split("==")[0] for line in (lock.parent / "requirements.in").read_text().split() if line[0] != "#"
        ]
        for name in set(names) & set(pinned):
            assert pinned[name] == locked[name], f"{name} in {lock.parent.name}"
    assert {"torch", "transformers", "onnx-ir", "onnxruntime"} <= set(pinned)
