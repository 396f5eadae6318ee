"""Where things are.

The checkout is read only; build/ and dist/ go to ONNXMAKE_OUTPUT, store and environments to ONNXMAKE_CACHE.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PASSES, TARGETS, CONTAINERS = ROOT / "passes", ROOT / "targets", ROOT / "containers"
TEXTS = TARGETS / "texts"
OUTPUT = Path(os.environ.get("ONNXMAKE_OUTPUT") or ROOT).resolve()
BUILD, DIST = OUTPUT / "build", OUTPUT / "dist"


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


CACHE = Path(os.environ.get("ONNXMAKE_CACHE") or _user_cache() / "onnxmake").resolve()


def _listed(variable: str) -> list[Path]:
    return [Path(p).resolve() for p in os.environ.get(variable, "").split(os.pathsep) if p]


def target_folders() -> list[Path]:
    """targets/ and the folders of ONNXMAKE_TARGETS, a path list."""
    return [TARGETS, *_listed("ONNXMAKE_TARGETS")]


def stores() -> list[Path]:
    """The read-only stores of ONNXMAKE_STORES, a path list."""
    return _listed("ONNXMAKE_STORES")


def shown(path: Path) -> str:
    """The path as a person wants to read it: relative where that is shorter."""
    return str(path).removeprefix(os.getcwd() + os.sep)
