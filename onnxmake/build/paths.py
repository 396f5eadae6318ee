"""Where things are.

The checkout is read only; build/ and dist/ go to ONNXMAKE_OUTPUT, store and environments to ONNXMAKE_CACHE.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PASSES, TARGETS, CONTAINERS = ROOT / "passes", ROOT / "targets", ROOT / "containers"
OUTPUT = Path(os.environ.get("ONNXMAKE_OUTPUT") or ROOT).resolve()
BUILD, DIST = OUTPUT / "build", OUTPUT / "dist"


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


CACHE = Path(os.environ.get("ONNXMAKE_CACHE") or _user_cache() / "onnxmake").resolve()


def target_folders() -> list[Path]:
    """targets/ and the folders of ONNXMAKE_TARGETS, a path list."""
    return [TARGETS, *(Path(p).resolve() for p in os.environ.get("ONNXMAKE_TARGETS", "").split(os.pathsep) if p)]


def shown(path: Path) -> str:
    """The path as a person wants to read it: relative where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
