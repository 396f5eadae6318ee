"""Is a release whole, and are its papers about it: as its receiver asks, without network, tasks or environments."""

import json
from pathlib import Path
from typing import Any

from onnxmake.errors import CheckFailed
from onnxmake.release import signature, sums

PAPERS = (sums.BOM, sums.PROVENANCE, sums.CARD)


def _off(fact: str, cause: str = "It was changed or cut off after it was released, or on its way.") -> CheckFailed:
    return CheckFailed(fact, cause, "Do not use it; get it again, and its sums by another way.")


def _summed(folder: Path) -> dict[str, str]:
    """Name -> digest, of files that all are what SHA256SUMS says, and no other."""
    if not (folder / sums.FILE).is_file():
        raise _off(f"{folder} holds no {sums.FILE}.", "It is no release.")
    try:
        stated = sums.read(folder)
    except ValueError as error:
        raise _off(f"{sums.FILE} has a line that is none: {str(error)[:80]!r}.") from error
    if links := [name for name in sums.listed(folder) if (folder / name).is_symlink()]:
        raise _off(f"{links[0]} is a link.")
    present = set(sums.listed(folder))
    if lost := sorted(set(stated) - present):
        raise _off(f"{lost[0]} is missing.")
    if more := sorted(present - set(stated)):
        raise _off(f"{more[0]} is not in {sums.FILE}.")
    for name, digest in stated.items():
        if sums.digest(folder / name) != digest:
            raise _off(f"{name} is not what {sums.FILE} says.")
    return stated


def _json(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _off(f"{name} cannot be read: {error}.") from error


def _of_the_model(stated: dict[str, str], told: dict[str, str], paper: str) -> None:
    """Raises CheckFailed where a paper is not about exactly the model's files."""
    model = {
        name: digest
        for name, digest in stated.items()
        if name not in PAPERS and not name.startswith(("LICENSE", "NOTICE"))
    }
    for name in sorted({*told, *model}):
        if told.get(name) != model.get(name):
            raise _off(f"{paper} says another thing of {name} than {sums.FILE}.", "It is of another release.")


def verify(folder: Path, key: Path | None = None) -> list[str]:
    """What was found right, a line each. `key`: the public key that the release must be signed by. Raises CheckFailed for the first
    thing that is off, EnvironmentMissing."""
    stated = _summed(folder)
    said = [f"{sums.FILE}: {len(stated)} files are what it says"]
    try:
        subjects = {s["name"]: s["digest"]["sha256"] for s in _json(folder, sums.PROVENANCE)["subject"]}
        parts = _json(folder, sums.BOM)["components"]
        files = {p["name"]: p["hashes"][0]["content"] for p in parts if p["type"] == "file"}
    except (KeyError, TypeError, IndexError) as error:
        raise _off(f"A paper lacks {error}.", "It is of another form than releases have.") from error
    _of_the_model(stated, subjects, sums.PROVENANCE)
    _of_the_model(stated, files, sums.BOM)
    said += [f"{sums.PROVENANCE}, {sums.BOM}: of these files"]
    if key is not None and not (folder / sums.SIGNATURE).exists():
        raise _off(f"There is no {sums.SIGNATURE}.", "The release was not signed, or the signature was taken away.")
    if key is not None:
        signature.verify(folder, key)
        said.append(f"{sums.SIGNATURE}: signed by {key.name}")
    elif (folder / sums.SIGNATURE).exists():
        said.append(f"{sums.SIGNATURE}: NOT verified, which takes --key FILE with the signer's public key")
    else:
        said.append("not signed")
    return said
