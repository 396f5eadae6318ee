"""What a bundle runs where its device is: checks the model's files, measures, and writes result.json for `doit bench`.

python -m onnxmake.model.bundled FOLDER [--device CPU]
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

from onnxmake.errors import CheckpointError, OnnxmakeError
from onnxmake.model.bench import bench


def check(model: Path, files: dict[str, list]) -> None:
    """Raise CheckpointError unless every file is what was packed: name -> [sha256, size]."""
    for name, (sha256, _) in files.items():
        path = model / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing from the bundle.", "It was not copied whole.", "Copy it again.")
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise CheckpointError(
                    f"{name} is not what was packed.", "It was changed, or damaged on the way.", "Copy it again."
                )


def run(folder: Path, device: str | None) -> Path:
    """Measure; returns the path of result.json."""
    try:
        packed = json.loads((folder / "bundle.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(
            f"{folder} has no bundle.json that can be read.",
            "It is no bundle, or was not copied whole.",
            "Copy it again.",
        ) from None
    check(folder / "model", packed["files"])
    measured = bench(str(folder / "model"), device or packed["device"], **packed["bench"])
    result, fresh = folder / "result.json", folder / "result.json.new"
    fresh.write_text(json.dumps({"target": packed["target"], "files": packed["files"], **measured}, indent=1), "utf-8")
    os.replace(fresh, result)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", help="another than the target's: CPU, where the model's ops run there")
    options = parser.parse_args()
    try:
        print(run(options.folder, options.device))
    except OnnxmakeError as error:
        sys.exit(f"ERROR {error}")
