"""The recipe of a target: what its result depends on, as far as that is known before anything is fetched or built.

Equal recipes give equal results. Other ones may, too: a step that gives the same bytes after a change of its code is known by running it only.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from onnxmake.build import closure, key, source
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.plan import Step
from onnxmake.build.source import Checkpoint

DESCRIBES = ("onnxmake.build.source",)  # the code that says which files a checkpoint has, and derives some


def of_step(document: Mapping[str, Any], files: Container[str]) -> dict[str, Any]:
    """A key's document without inputs that come from the checkpoint or another step; `files` are those that its options name."""
    return key.short(document) | {"inputs": {name: sha for name, sha in document["inputs"].items() if name in files}}


def of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """A commit on the hub, which need not be fetched, and the code that looks at its files; or a folder's files.

    Raises CheckpointError, SourceError, UnsupportedError where the folder is none that could be built.
    """
    if checkpoint.folder is not None:
        return {"files": source.describe(checkpoint.folder)[0]["files"]}
    code = digest_text(canonical_json(closure.digests_of(DESCRIBES)))
    return {"repo": checkpoint.source.repo, "revision": checkpoint.source.revision, "code": code}


def of(steps: Sequence[Step]) -> dict[str, Any]:
    """Of a target's steps as they are now. Raises as `of_checkpoint`."""
    known = [of_step(key.known(step), step.use.files) for step in steps]
    return {"origin": of_checkpoint(steps[0].checkpoint), "steps": known}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, each as 'pass: path: old -> new'; empty where the results are equal."""
    lines = [f"source: {line}" for line in key.difference(old["origin"], new["origin"])]
    passes = [[step["pass"] for step in one["steps"]] for one in (old, new)]
    if passes[0] != passes[1]:
        return [*lines, f"passes: {', '.join(passes[0])} -> {', '.join(passes[1])}"]
    for before, after in zip(old["steps"], new["steps"]):
        lines += [f"{after['pass']}: {line}" for line in key.difference(before, after)]
    return lines
