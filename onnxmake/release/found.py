"""The releases that are there, by what their papers say: a name and a version may hold dashes, so a folder's name says neither."""

import json
from dataclasses import dataclass
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.schema import nearest
from onnxmake.errors import StoreError
from onnxmake.release import sums


@dataclass(frozen=True)
class Released:
    name: str
    version: str
    folder: Path

    @property
    def layout(self) -> Path:
        """The same as an OCI image layout."""
        return self.folder.with_name(f"{self.folder.name}.oci")


def releases() -> list[Released]:
    """From the oldest to the newest. A folder without papers that can be read is none."""
    out = []
    for sealed in sorted((paths.DIST / "releases").glob(f"*/{sums.FILE}"), key=lambda file: file.stat().st_mtime_ns):
        try:
            told = json.loads((sealed.parent / sums.BOM).read_text("utf-8"))["metadata"]["component"]
            out.append(Released(told["name"], told["version"], sealed.parent))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return out


def the_release(name: str, version: str) -> Released:
    """The newest of that name, or the one of `version`. Raises StoreError."""
    own = [release for release in releases() if release.name == name]
    if not own:
        fact = f"There is no release of {name} in {paths.shown(paths.DIST / 'releases')}."
        raise StoreError(fact, "Only what was released is published.", f"doit release:{name} version=1.0.0")
    if not version:
        return own[-1]
    found = [release for release in own if release.version == version]
    if not found:
        fact = f"There is no release {version} of {name}."
        raise StoreError(fact, "It was not made, or not here.", nearest(version, [r.version for r in own]))
    return found[-1]
