"""Files of datasets on the hub: how a target names them, and where what they hold is once it was fetched."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import closure, paths
from onnxmake.build.digest import digest_file
from onnxmake.build.files import canonical_json, digest_text, read_record, write_record
from onnxmake.errors import TargetError

FORM = "hf://datasets/OWNER/NAME@COMMIT/FILE"
COMMIT = "[0-9a-f]{40}"
SUFFIX = r"(?:(?:txt|md|jsonl|json|csv)(?:\.gz)?|parquet)"
HUB = re.compile(  # a commit's files never change
    rf"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>{COMMIT})/(?P<file>.+\.{SUFFIX})"
)
MADE = "script://"  # calibration, data, text = "script://FILE": no data set, but what run_script has written as FILE
OPTIONS = ("calibration", "data")  # of passes, that may name either; beside text under [check]
READER = ("onnxmake.model.dataset",)
PLAIN = re.compile(r".+\.(?:txt|md)(?:\.gz)?")


def misnamed(name: str) -> str:
    """What is wrong with the name of a file on the hub; empty where nothing is."""
    if HUB.fullmatch(name):
        return ""
    fact = f"is not of the form {FORM}"
    if re.fullmatch(r"hf://datasets/[\w.-]+/[\w.-]+(@(?!" + COMMIT + r"/)[^/]*)?/.+", name):
        how = "the dataset's page shows the commit under Files and versions, History"
        return f"{fact}: it names no commit of 40 hex digits, and a branch may change under the build; {how}"
    if re.fullmatch(rf"hf://datasets/[\w.-]+/[\w.-]+@{COMMIT}/.+", name):
        return f"{fact}: FILE is .parquet, or .jsonl, .json, .csv, .txt, .md and these with .gz"
    return fact


def check(where: str, option: str, name: str) -> None:
    """Raises TargetError where the name is none."""
    if wrong := misnamed(name):
        raise TargetError(
            f"{where}: {option} = {name!r} {wrong}.",
            "The name stands for one content, for as long as the target does.",
            f'Write {option} = "{FORM}", or the name of a file beside the target.',
        )


def place(name: str) -> Path:
    """Where the rows or the text are, once they were fetched."""
    suffix = ".txt" if PLAIN.fullmatch(name) else ".jsonl"
    return paths.BUILD / "data" / f"{digest_text(name)[:16]}{suffix}"


def _record(name: str) -> Path:
    return place(name).with_suffix(".record")


def reader() -> str:
    """What stands for the code that makes rows of files."""
    return digest_text(canonical_json(closure.digests_of(READER)))


def note(name: str) -> None:
    """Keep what was fetched, and by which code it was read. Raises StoreError."""
    write_record(_record(name), {"name": name, "sha256": digest_file(place(name)), "reader": reader()})


def is_here(name: str) -> bool:
    """Whether what was fetched is there, as it was, and would be read so today."""
    record = read_record(_record(name))
    if not record or record["reader"] != reader() or not place(name).is_file():
        return False
    return digest_file(place(name)) == record["sha256"]


def missing(named: Mapping[str, str]) -> list[str]:
    """Of the files that a pass's options name, those that are not here: `named` is a Use's `hub`."""
    return [name for name in dict.fromkeys(named.values()) if not is_here(name)]


def in_recipe(named: Mapping[str, str]) -> dict[str, Any]:
    """What of a recipe stands for these files, which need not be fetched; empty where there are none."""
    return {"datasets": dict(named), "reader": reader()} if named else {}
