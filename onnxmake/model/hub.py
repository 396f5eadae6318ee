"""Fetch a checkpoint, or files of a dataset, from the Hugging Face hub: a commit's files that are needed, resumed where cut off.

Each checked against the hub's digest.

{"repo", "revision", "patterns"} -> the folder. HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the token are huggingface_hub's
own.
"""

import contextlib
import fnmatch
import hashlib
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxmake.errors import SourceError
from onnxmake.model.hub_errors import hub_errors
from onnxmake.model.nearest import nearest
from onnxmake.model.progress import progress
from onnxmake.model.serve import serve

TRIES = 5
FEW = 100  # names to choose the nearest from, or to say all of


def digest_of(path: Path, lfs: bool) -> str:
    """The hub's digest of a file: sha256 of large files, git's blob sha1 of others."""
    with open(path, "rb") as file:
        if lfs:
            return hashlib.file_digest(file, "sha256").hexdigest()
        data = file.read()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def fetch(repo: str, revision: str, patterns: list[str]) -> str:
    """The folder with the model's files at `revision` that match `patterns`. Raises SourceError."""
    return fetched(repo, revision, patterns, "model")[0]


def chosen(names: Iterable[str], patterns: list[str], kind: str) -> list[str]:
    """Those that match: of a model, on the first level of its folder; of a dataset, by the whole path, in which "*" is anything within a folder."""
    if kind == "model":
        return [n for n in names if "/" not in n and any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)]
    told = re.compile("|".join("[^/]*".join(map(re.escape, pattern.split("*"))) for pattern in patterns), re.DOTALL)
    return [name for name in names if told.fullmatch(name)]


def fetched(repo: str, revision: str, patterns: list[str], kind: str) -> tuple[str, list[str]]:
    """The folder with the repository's files at `revision` that match `patterns`, and their names. Without a network, where they were
    fetched before. Raises SourceError."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    with hub_errors(repo, revision, kind):
        # a model's files are fetched together; of a dataset, now one and now another
        asked = f"{revision}-{hashlib.sha256(patterns[0].encode()).hexdigest()[:10]}" if kind == "dataset" else revision
        marker = (
            Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind) / f".onnxmake-{asked}.json"
        )
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            record = json.loads(marker.read_text())
            if record["patterns"] == patterns and all(
                (Path(record["folder"]) / name).exists() for name in record["files"]
            ):
                return record["folder"], record["files"]
        info: Any = HfApi().repo_info(repo, revision=revision, repo_type=kind, files_metadata=True)
        there = {s.rfilename: s for s in info.siblings}
        wanted = {name: there[name] for name in chosen(there, patterns, kind)}
        total, done, folder = sum(s.size or 0 for s in wanted.values()), 0, None
        for name, sibling in wanted.items():
            expected = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            path = download(repo, revision, kind, name, expected, bool(sibling.lfs), bar_of(done, total))
            folder, done = path.parents[name.count("/")], done + (sibling.size or 0)
            progress(done, total)
    if folder is None:
        raise (
            SourceError(
                f"{repo} at {revision[:12]} holds none of the files a build needs.",
                "It is no Transformers checkpoint.",
                "Choose a repository with config.json and safetensors files.",
            )
            if kind == "model"
            else SourceError(
                f"{repo} at {revision[:12]} has no {patterns[0]}.",
                "A typing error, or the file came with a later commit.",
                nearest(patterns[0], there) if len(there) < FEW else "Look at its files on the hub.",
            )
        )
    marker.write_text(json.dumps({"patterns": patterns, "folder": str(folder), "files": sorted(wanted)}))
    return str(folder), sorted(wanted)


def bar_of(before: int, total: int) -> type:
    """What the client draws a file's progress with: it tells the runner instead, bytes on top of those `before`."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args, initial=0, **kwargs):
            super().__init__(disable=True)
            self.arrived = initial

        def update(self, n=1):
            self.arrived += n
            progress(before + int(self.arrived), total)

    return Bar


def download(repo: str, revision: str, kind: str, name: str, expected: str, lfs: bool, bar: type) -> Path:
    """One file, checked.

    A cut connection is resumed; a file with another digest is thrown away and fetched once more.
    """
    from huggingface_hub import errors, hf_hub_download

    for attempt in range(TRIES):
        try:
            path = Path(hf_hub_download(repo, name, revision=revision, repo_type=kind, tqdm_class=bar))
        except (errors.HTTPError, OSError) as error:
            if (
                attempt == TRIES - 1
                or isinstance(error, (errors.RepositoryNotFoundError, errors.EntryNotFoundError))
                or getattr(error, "errno", None)
            ):
                raise
            time.sleep(0.2 * 2**attempt)
            continue
        if digest_of(path, lfs) == expected:
            return path
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    raise SourceError(
        f"{name} of {repo} arrived with another digest than the hub states, {TRIES} times.",
        "A proxy or mirror changes it, or the hub's copy is damaged.",
        f"Fetch it over another network, or tell the {kind}'s owners.",
    )


if __name__ == "__main__":
    serve(lambda a: fetch(a["repo"], a["revision"], a["patterns"]))
