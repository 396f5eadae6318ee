"""What is in dist/releases, by each release's own papers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.files import read_json
from onnxmake.release import licence, sums


@dataclass(frozen=True)
class Released:
    """Which files it is of: name -> sha256. `size`: bytes of all of its files."""

    folder: str
    target: str
    version: str
    files: Mapping[str, str]
    size: int
    licence: str
    signed: bool


def read(folder: Path) -> Released:
    """Raises OSError, ValueError, LookupError or TypeError for what is no release, or damaged."""
    paper = read_json(folder / sums.PROVENANCE)
    told = paper["predicate"]["buildDefinition"]["externalParameters"]
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    files = {one["name"]: one["digest"]["sha256"] for one in paper["subject"]}
    named = licence.stated(folder).get("license", "").strip()
    signed = (folder / sums.SIGNATURE).exists()
    return Released(folder.name, str(told["target"]), str(told["version"]), files, size, named, signed)


def folders() -> list[Path]:
    """In order; an OCI layout lies beside the release that it is of."""
    found = sorted((paths.DIST / "releases").glob("*"))
    return [folder for folder in found if folder.is_dir() and folder.suffix != ".oci"]
