"""Ask the hub which files of a dataset hold a split. Names and the README only, no data.

{"repo", "revision", "subset", "split", "files", "folder"} -> {"repo", "revision": the commit, "file": a name or a pattern of several,
"files": all of the split's}. `files` are patterns of a workflow's own; `subset` and `folder` may be "".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.errors import SourceError
from onnxmake.model import rows, splits
from onnxmake.model.hub import FEW, bar_of, chosen, download
from onnxmake.model.hub_errors import hub_errors
from onnxmake.model.nearest import nearest
from onnxmake.model.serve import serve

LARGEST = 1e9  # bytes that are taken of a split, unless a target says so itself


def together(files: Sequence[str], sizes: Mapping[str, int]) -> str:
    """A pattern for exactly these files; the first of them where there is none, or they are larger than LARGEST."""
    first, last = files[0], files[-1]
    same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    ends = next((i for i, (a, b) in enumerate(zip(first[same:][::-1], last[same:][::-1])) if a != b), None)
    ends = min(len(first), len(last)) - same if ends is None else ends
    pattern = f"{first[:same]}*{first[len(first) - ends :]}"
    alike = rows.form_of(pattern) in splits.READ and chosen(sizes, [pattern], "dataset") == [
        name for name in sizes if name in {*files}
    ]
    return pattern if alike and sum(sizes[name] for name in files) <= LARGEST else first


def files_of(sizes: Mapping[str, int], configs: Any, asked: Mapping[str, Any]) -> list[str]:
    """The split's files. Raises SourceError."""
    repo, own = asked["repo"], asked["files"]
    if own:
        found, wanted, known = splits.matching(sizes, own, asked["folder"]), own[0], {*sizes}
    else:
        told = splits.splits([*sizes], configs, repo, asked["subset"], asked["folder"])
        found, wanted, known = told.get(asked["split"], []), asked["split"], {*told}
    if not found:
        raise SourceError(
            f"{repo} has no {'file' if own else 'split'} {wanted!r}.",
            "A typing error, or the data is elsewhere: no script of a dataset is run.",
            nearest(wanted, known) if len(known) < FEW else "Look at its files on the hub.",
        )
    if wrong := [name for name in found if rows.form_of(name) not in splits.READ]:
        raise SourceError(
            f"{wrong[0]} of {repo} is none of the forms that are read: {', '.join(splits.READ)}.",
            "It is of pictures or sound, or packed.",
            "Save the texts as .jsonl or .txt beside the workflow, and name that file in data_files.",
        )
    return found


def _told(readme: Path) -> Any:
    """`configs` of a README; None where it says none that can be read: names decide then."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    try:
        return (metadata_load(readme) or {}).get("configs")
    except (yaml.YAMLError, ValueError):
        return None


def look(**asked: Any) -> dict[str, Any]:
    """Raises SourceError."""
    from huggingface_hub import HfApi

    repo, revision = asked["repo"], asked["revision"]
    with hub_errors(repo, revision, "dataset"):
        info: Any = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
        there = {s.rfilename: s for s in info.siblings}
        configs, paper = None, there.get("README.md")
        if paper and not paper.lfs:
            bar = bar_of(0, paper.size or 0)
            configs = _told(download(info.id, info.sha, "dataset", "README.md", paper.blob_id, False, bar))
    sizes = {name: s.size or 0 for name, s in there.items()}
    found = files_of(sizes, configs, asked)
    return {"repo": info.id, "revision": info.sha, "file": together(found, sizes), "files": found}


if __name__ == "__main__":
    serve(lambda action: look(**action))
