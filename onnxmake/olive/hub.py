"""Data sets of the hub that a workflow names: found out at which commit they are and in which files, or refused."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import dataset, fetch, job, paths, runner
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.target import COMMIT
from onnxmake.errors import TargetError
from onnxmake.olive.told import Refusal, Told
from onnxmake.olive.workflow import wrong

LOADERS = ("text", "json", "csv", "parquet", "pandas", "arrow")  # of local files: names of no data set
SPLIT = "validation"  # Olive's default


@dataclass(frozen=True)
class OnHub:
    """A data set as a workflow names it, until the hub was asked; `files` are patterns, "" is what is not said."""

    item: str
    name: str
    revision: str
    subset: str
    split: str
    files: tuple[str, ...]
    folder: str


def _text(where: str, item: str, given: Any) -> str:
    if given is not None and not isinstance(given, str):
        raise wrong(where, item, given, "a string")
    return given or ""


def _files(where: str, item: str, given: Any, split: str) -> tuple[str, ...]:
    """Patterns of a split, of all that a workflow may write as data_files. Raises TargetError."""
    if isinstance(given, dict):
        given = given.get(split)
    several = given if isinstance(given, list) else [given] if given else []
    if not all(isinstance(one, str) for one in several):
        raise wrong(where, item, given, "names of files")
    return tuple(several)


def named(where: str, item: str, load: Mapping[str, Any], told: Told) -> str | OnHub | None:
    """What `load_dataset_config` names: a file of a commit, a data set that is to be looked up, or none. Raises TargetError, Refusal."""
    name = _text(where, f"{item}.data_name", load.get("data_name"))
    if not name or name in LOADERS:
        return None
    whole = _text(where, f"{item}.split", load.get("split")) or SPLIT
    split, _, part = whole.partition("[")
    if "+" in split:
        raise Refusal(f"{item}: split {whole!r} is of several", "Name one split.")
    if part:
        told.note(item, f"all of split {split} is read, as far as samples and steps say")
    files = _files(where, f"{item}.data_files", load.get("data_files"), split)
    keys = {key: _text(where, f"{item}.{key}", load.get(key)) for key in ("revision", "subset", "data_dir")}
    pinned = f"hf://datasets/{name}@{keys['revision']}/{''.join(files)}"
    simple = len(files) == 1 and not re.search(r"\*\*|[?[]", files[0]) and not keys["data_dir"]
    if simple and not dataset.misnamed(pinned):
        return pinned
    return OnHub(item, name, keys["revision"] or "main", keys["subset"], split, files, keys["data_dir"])


def settled(value: Any, take: Callable[[OnHub], str]) -> Any:
    """A table with what `take` says of each data set in it."""
    if isinstance(value, OnHub):
        return take(value)
    if isinstance(value, dict):
        return {key: settled(inner, take) for key, inner in value.items()}
    return [settled(inner, take) for inner in value] if isinstance(value, list) else value


def refuse(where: str, file: Path) -> Callable[[OnHub], str]:
    """For a workflow that is built as it is. Raises TargetError: what stands for one content the hub alone knows."""

    def take(one: OnHub) -> str:
        lacking = "file" if COMMIT.fullmatch(one.revision) else "commit"
        raise TargetError(
            f"{where}: {one.item} names no {lacking} of {one.name}.",
            "A branch may change under the build, and in which files a split is, the hub knows.",
            f"doit import -c {where} -o targets/{file.stem}.toml, which asks it for both; or save the texts as .jsonl beside the workflow"
            " and name that in data_files, without data_name.",
        )

    return take


def ask(told: Told) -> Callable[[OnHub], str]:
    """For a workflow that is imported: the commit that the branch is at now, and the split's files. Raises SourceError."""

    def take(one: OnHub) -> str:
        asked = {
            "repo": one.name,
            "revision": one.revision,
            "subset": one.subset,
            "split": one.split,
            "files": [*one.files],
            "folder": one.folder,
        }
        log = paths.BUILD / "logs" / f"look-{digest_text(canonical_json(asked))[:10]}.log"
        work = job.module("onnxmake.model.listing", "cpu", **fetch.hub_access())
        found = runner.run(work, asked, log, f"look at {one.name}")
        if len(found["files"]) > 1 and "*" not in found["file"]:
            more = f'the first of {len(found["files"])} files; another can be named, or several by "*"'
            told.note(one.item, f"{found['file']} is {more}")
        return f"hf://datasets/{found['repo']}@{found['revision']}/{found['file']}"

    return take
