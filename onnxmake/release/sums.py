"""SHA256SUMS of a folder, in the form of coreutils' sha256sum: every file but itself and the signature over it."""

import hashlib
import re
from pathlib import Path

FILE, SIGNATURE = "SHA256SUMS", "model.sig"
BOM, PROVENANCE, CARD = (
    "bom.cdx.json",
    "provenance.intoto.json",
    "README.md",
)  # the papers, which are of the model's files
HUB = re.compile(
    r"\.gitattributes|\.cache/huggingface/.*"
)  # what the hub and its client lay beside; no runtime reads it
LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\r][^\\\r]*)")


def digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def listed(folder: Path) -> list[str]:
    """Names of the files that count, in order, and of links, whatever they lead to."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(name for name in found if name not in (FILE, SIGNATURE) and not HUB.fullmatch(name))


def write(folder: Path) -> None:
    lines = [f"{digest(folder / name)}  {name}\n" for name in listed(folder)]
    (folder / FILE).write_text("".join(lines), "utf-8", newline="\n")


def read(folder: Path) -> dict[str, str]:
    """Name -> sha256. Raises ValueError for a line of another form, a name that is there twice, or one that leads out of the folder."""
    out: dict[str, str] = {}
    *lines, rest = (folder / FILE).read_bytes().decode("utf-8").split("\n")
    for line in lines if not rest else [rest]:
        match = LINE.fullmatch(line)
        if match is None or match[2] in out or ".." in match[2].split("/"):
            raise ValueError(line)
        out[match[2]] = match[1]
    return out
