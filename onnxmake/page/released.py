"""What is in dist/releases, by each release's own papers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.files import read_json
from onnxmake.release import licence, sums


@dataclass(frozen=True)
class Released:
    """Which files it is of: name -> sha256. `size`: bytes of all of its files."""

    folder: str
    name: str
    targets: Collection[str]
    version: str
    files: Mapping[str, str]
    size: int
    licence: str
    signed: bool


def is_of(release: Released, target: str, files: Mapping[str, tuple[str, int]]) -> bool:
    """Whether it holds what is built of the target: name -> (sha256, bytes). One of several targets adds to their genai_config.json."""
    kept = {sha for name, (sha, _) in files.items() if name != "genai_config.json" or len(release.targets) == 1}
    return target in release.targets and kept <= {*release.files.values()}


def read(folder: Path) -> Released:
    """Raises OSError, ValueError, LookupError or TypeError for what is no release, or damaged."""
    paper = read_json(folder / sums.PROVENANCE)
    told = paper["predicate"]["buildDefinition"]["externalParameters"]
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    files = {one["name"]: one["digest"]["sha256"] for one in paper["subject"]}
    named = licence.stated(folder).get("license", "").strip()
    signed = (folder / sums.SIGNATURE).exists()
    return Released(
        folder.name, str(told["release"]), list(told["targets"]), str(told["version"]), files, size, named, signed
    )


def folders() -> list[Path]:
    """In order; an OCI layout lies beside the release that it is of."""
    found = sorted((paths.DIST / "releases").glob("*"))
    return [folder for folder in found if folder.is_dir() and folder.suffix != ".oci"]
