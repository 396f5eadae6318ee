"""The recipe of a release: what its targets' results depend on, as far as that is known before anything is fetched or built.

Equal recipes give equal results. Other ones may, too: a step that gives the same bytes after a change of its code is known by running it only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from onnxmake.build import closure, dataset, key, source
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.plan import Step
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Use

DESCRIBES = ("onnxmake.build.source",)  # the code that says which files a checkpoint has, and derives some


def of_step(document: Mapping[str, Any], use: Use) -> dict[str, Any]:
    """A key's document without inputs that come from the checkpoint or another step; those of datasets by their names."""
    own = use.files.keys() - use.hub
    inputs = {name: sha for name, sha in document["inputs"].items() if name in own}
    return key.short(document) | {"inputs": inputs} | dataset.in_recipe(use.hub)


def of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """A commit on the hub, which need not be fetched, and the code that looks at its files; or a folder's files.

    Raises CheckpointError, SourceError, UnsupportedError where the folder is none that could be built.
    """
    if checkpoint.folder is not None:
        return {"files": source.describe(checkpoint.folder)[0]["files"]}
    code = digest_text(canonical_json(closure.digests_of(DESCRIBES)))
    return {"repo": checkpoint.source.repo, "revision": checkpoint.source.revision, "code": code}


def of(targets: Mapping[str, Sequence[Step]]) -> dict[str, Any]:
    """Of targets of one checkpoint, by name, with their steps as they are now. Raises as `of_checkpoint`."""
    known = {name: [of_step(key.known(step), step.use) for step in steps] for name, steps in targets.items()}
    return {"origin": of_checkpoint(next(iter(targets.values()))[0].checkpoint), "steps": known}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, each as 'pass: path: old -> new'; empty where the results are equal."""
    lines = [f"source: {line}" for line in key.difference(old["origin"], new["origin"])]
    if old["steps"].keys() != new["steps"].keys():
        return [*lines, f"targets: {', '.join(old['steps'])} -> {', '.join(new['steps'])}"]
    for name, after in new["steps"].items():
        of = f"{name}: " if new["steps"].keys() - {name} else ""
        lines += [of + line for line in _difference(old["steps"][name], after)]
    return lines


def _difference(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the steps of a target."""
    passes = [[step["pass"] for step in steps] for steps in (old, new)]
    if passes[0] != passes[1]:
        return [f"passes: {', '.join(passes[0])} -> {', '.join(passes[1])}"]
    return [f"{after['pass']}: {line}" for before, after in zip(old, new) for line in key.difference(before, after)]
