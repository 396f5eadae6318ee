"""Under which licence a checkpoint is, by its model card's front matter, as the hub has it: a name of its list, in lower case."""

import re
from pathlib import Path

from onnxmake.errors import SourceError

FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?$", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"^(license(?:_name|_link)?):[ \t]*[\"']?([^\"'\r\n#]+?)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)
SPDX = {  # the hub's name -> the one of SPDX, where it has one
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc0-1.0": "CC0-1.0",
    "gpl-3.0": "GPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "mpl-2.0": "MPL-2.0",
    "psf-2.0": "PSF-2.0",
    "unlicense": "Unlicense",
}


def stated(folder: Path) -> dict[str, str]:
    """license, and license_name and license_link if they are there, of the checkpoint's README.md."""
    file = folder / "README.md"
    front = FRONT.match(file.read_text("utf-8", "replace")) if file.is_file() else None
    return dict(LINE.findall(front[1])) if front else {}


def licence_of(folder: Path, own: str | None, where: str) -> dict[str, str]:
    """As `stated`, or what the target says itself. Raises SourceError where nobody says."""
    found = {"license": own} if own else stated(folder)
    if found.get("license", "unknown").lower() == "unknown":
        raise SourceError(
            f"Nothing says under which licence {where} is.",
            "Its README.md has no front matter with license: NAME.",
            'Look it up; then write [release] with license = "NAME" into the target.',
        )
    return found | {"license": found["license"].lower()}
