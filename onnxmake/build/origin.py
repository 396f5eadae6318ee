"""The model that `doit new` is given: a folder, or a repository of the hub at a branch, tag or commit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxmake.build import job, paths, runner, traits
from onnxmake.build.fetch import hub_access
from onnxmake.build.files import digest_text
from onnxmake.errors import SourceError

ON_HUB = re.compile(r"(?P<repo>[\w-][\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Origin:
    """`name`: as a person knows it; `folder`: where its small files are; `files`: of all that there are, name -> bytes."""

    name: str
    folder: Path
    files: Mapping[str, int]
    repo: str = ""
    revision: str = ""  # a commit

    def source(self, beside: Path) -> dict[str, str]:
        """[source] of a target file in the folder `beside`: relative to it where the model lies next to it or below."""
        if self.repo:
            return {"repo": self.repo, "revision": self.revision}
        model, around = self.folder.resolve(), beside.resolve()
        if model.is_relative_to(around):
            return {"path": model.relative_to(around).as_posix()}
        if model.is_relative_to(around.parent):
            return {"path": f"../{model.relative_to(around.parent).as_posix()}"}
        return {"path": model.as_posix()}


def origin(model: str) -> Origin:
    """Of the hub, only names of files and the small ones are fetched. Raises SourceError."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _local(folder)
    asked = ON_HUB.fullmatch(model)
    if asked is None:
        raise SourceError(
            f"{model!r} is neither a folder nor a name of the hub.",
            "A typing error, or the folder is somewhere else.",
            "Give a folder with config.json, or OWNER/NAME, or OWNER/NAME@REVISION.",
        )
    return _hub(asked["repo"], asked["revision"] or "main")


def _local(folder: Path) -> Origin:
    if not (folder / "config.json").is_file():
        pipeline = (
            " It is a pipeline of Diffusers, of several models." if (folder / "model_index.json").is_file() else ""
        )
        raise SourceError(
            f"{folder} holds no config.json.",
            f"It is not a Hugging Face checkpoint, or one folder above or below it.{pipeline}",
            "Give the folder with config.json.",
        )
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return Origin(folder.resolve().name, folder.resolve(), files)


def _hub(repo: str, revision: str) -> Origin:
    asked = {"repo": repo, "revision": revision, "names": [*traits.NAMES]}
    log = paths.BUILD / "logs" / f"peek-{digest_text(repo)[:10]}.log"
    found = runner.run(job.module("onnxmake.model.peek", "cpu", **hub_access()), asked, log, f"look at {repo}")
    return Origin(found["repo"], Path(found["folder"]), found["files"], found["repo"], found["revision"])
