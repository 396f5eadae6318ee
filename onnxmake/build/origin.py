"""The model that `doit new` is given: a folder, or a repository of the hub at a branch, tag or commit."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxmake.build import job, paths, runner, traits
from onnxmake.build.fetch import hub_access
from onnxmake.build.files import digest_text
from onnxmake.errors import SourceError
from onnxmake.model.foreign import SAFETENSORS, instead, weights_of
from onnxmake.model.prequantized import logical
from onnxmake.model.safetensors import Tensor, read_checkpoint
from onnxmake.model.schemes import scheme_of

ON_HUB = re.compile(
    r"(?:https://huggingface\.co/|hf://)?(?P<repo>[\w-][\w.-]*(?:/[\w.-]+)?)(?:(?:@|/tree/)(?P<revision>[\w./-]+))?/?"
)
FILES = (".gguf", ".onnx", ".safetensors", ".bin")  # how no repository's name ends


@dataclass(frozen=True)
class Origin:
    """`name`: as a person knows it; `folder`: where its small files are; `files`: of all that there are, name -> bytes."""

    name: str
    folder: Path
    files: Mapping[str, int]
    repo: str = ""
    revision: str = ""  # a commit
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of tensors by name, where they are asked for

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


def origin(model: str, shapes: bool = False) -> Origin:
    """Of the hub, only names of files and the small ones are fetched, and for `shapes` the first bytes of those with weights.

    Raises SourceError, and for shapes CheckpointError, UnsupportedError."""
    path, asked = Path(model).expanduser(), ON_HUB.fullmatch(model)
    if path.is_dir():
        return _local(path, shapes)
    if path.is_file():
        beside = {p.name for p in path.parent.iterdir()}
        cause, action = instead([path.name], "config.json")
        if "config.json" in beside:
            cause, action = "The checkpoint is the folder around it.", f"Give {path.parent}."
        raise SourceError(f"{model} is a file.", cause, action)
    if asked is None or model.endswith(FILES):
        raise SourceError(
            f"{model!r} is neither a folder nor a name of the hub.",
            "A typing error, or the folder is somewhere else.",
            "Give a folder with config.json, or OWNER/NAME, or OWNER/NAME@REVISION.",
        )
    return _hub(asked["repo"], asked["revision"] or "main", shapes)


def _local(folder: Path, shapes: bool) -> Origin:
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    if "config.json" not in files:
        raise SourceError(f"{folder} holds no config.json.", *instead(files, "config.json"))
    tensors = read_checkpoint(folder) if shapes and weights_of(files) else {}
    return Origin(folder.resolve().name, folder.resolve(), files, shapes=_shapes(folder, tensors))


def _hub(repo: str, revision: str, shapes: bool) -> Origin:
    asked = {"repo": repo, "revision": revision, "names": [*traits.NAMES], "shapes": shapes}
    log = paths.BUILD / "logs" / f"peek-{digest_text(repo)[:10]}.log"
    found = runner.run(job.module("onnxmake.model.peek", "cpu", **hub_access()), asked, log, f"look at {repo}")
    folder, file = Path(found["folder"]), Path(SAFETENSORS)  # which one does not matter
    tensors = {name: Tensor(file, dtype, tuple(shape), 0, 0) for name, (dtype, shape) in found["tensors"].items()}
    return Origin(found["repo"], folder, found["files"], found["repo"], found["revision"], _shapes(folder, tensors))


def _shapes(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    """As an unquantised checkpoint has them."""
    if not tensors:
        return {}
    return {name: tensor.shape for name, tensor in logical(tensors, scheme_of(traits.shaping(folder))).items()}
