"""Which commit a branch of the hub is at, what files there are, and the small ones that say what the model is. No weights.

{"repo", "revision", "names", "shapes"} -> {"repo", "revision": the commit, "folder" with the files of these names that there are, "files": name -> bytes,
"tensors": name -> [type, shape], for "shapes"}.
"""

from typing import Any

from onnxmake.errors import CheckpointError, SourceError
from onnxmake.model.foreign import instead, weights_of
from onnxmake.model.hub import bar_of, download
from onnxmake.model.hub_errors import hub_errors
from onnxmake.model.safetensors import AGAIN
from onnxmake.model.serve import serve


def _tensors(repo: str, commit: str, files: list[str]) -> dict[str, list[Any]]:
    """Type and shape of every tensor, by the first bytes of each file. Raises CheckpointError."""
    from huggingface_hub import HfApi, errors

    found: dict[str, list[Any]] = {}
    for name in files:
        try:
            header = HfApi().parse_safetensors_file_metadata(repo, name, revision=commit)
        except errors.SafetensorsParsingError as error:
            raise CheckpointError(f"{name} of {repo} is no safetensors file.", "It is damaged.", AGAIN) from error
        found |= {tensor: [entry.dtype, entry.shape] for tensor, entry in header.tensors.items()}
    return found


def peek(repo: str, revision: str, names: list[str], shapes: bool = False) -> dict[str, Any]:
    """The first of `names` must be there. Raises SourceError."""
    from huggingface_hub import HfApi

    folder = None
    with hub_errors(repo, revision):
        info: Any = HfApi().model_info(repo, revision=revision, files_metadata=True)
        there = {s.rfilename: s for s in info.siblings}
        for name in (n for n in names if n in there):
            file = there[name]
            if file.lfs:  # no small text of a model's is stored so
                raise CheckpointError(
                    f"{name} of {repo} is stored as a large file.",
                    "It holds something else than its name says.",
                    "Choose another checkpoint.",
                )
            path = download(info.id, info.sha, "model", name, file.blob_id, False, bar_of(0, file.size or 0))
            folder = path.parents[name.count("/")]
        tensors = _tensors(info.id, info.sha, weights_of({*there})) if shapes else {}
    if names[0] not in there:
        raise SourceError(f"{repo} at {info.sha[:12]} holds no {names[0]}.", *instead({*there}, names[0]))
    sizes = {name: s.size or 0 for name, s in there.items()}
    return {"repo": info.id, "revision": info.sha, "folder": str(folder), "files": sizes, "tensors": tensors}


if __name__ == "__main__":
    serve(lambda a: peek(a["repo"], a["revision"], a["names"], a.get("shapes", False)))
