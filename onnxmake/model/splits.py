"""Files of a dataset's splits: by the `configs` of its README, or else by how folders and files are named, as
https://huggingface.co/docs/hub/datasets-data-files-configuration has it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxmake.errors import SourceError
from onnxmake.model import rows
from onnxmake.model.nearest import nearest

READ = (*rows.READERS, ".parquet", ".txt")
PAPERS = ("README.md", "LICENSE.txt", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
SHARD = re.compile(r"data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*\..+")
WORDS = {  # split -> words that say it in a name
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
Splits = dict[str, list[str]]


def glob(pattern: str) -> re.Pattern[str]:
    """ "*" is within a folder, "**" through folders, "?" one character."""
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(known.get(token) or re.escape(token) for token in tokens), re.DOTALL)


def matching(names: Iterable[str], patterns: Iterable[str], folder: str = "") -> list[str]:
    """Of the repository's files, those that a pattern in the folder names."""
    before = f"{folder.strip('/')}/" if folder.strip("/.") else ""
    asked = [glob(before + pattern.removeprefix("./")) for pattern in patterns]
    return sorted(name for name in names if any(pattern.fullmatch(name) for pattern in asked))


def readable(names: Iterable[str]) -> list[str]:
    """Data files of the form that most have."""
    found = [n for n in names if rows.form_of(n) in READ and n.rpartition("/")[2] not in PAPERS and "/." not in f"/{n}"]
    ((form, _),) = Counter(map(rows.form_of, found)).most_common(1) or [("", 0)]
    return sorted(name for name in found if rows.form_of(name) == form)


def by_name(names: Sequence[str]) -> Splits:
    """Split -> files, by how they are named."""
    out: Splits = {}
    for name in names:
        if shard := SHARD.fullmatch(name):
            out.setdefault(shard["split"], []).append(name)
    for place in (0, 2) if not out else ():  # what a folder says comes before what a file says
        for split, words in WORDS.items():
            said = re.compile(rf"(?:^|[-._ 0-9/])(?:{'|'.join(words)})(?:[-._ 0-9/]|$)")
            found = [name for name in names if said.search(name.rpartition("/")[place])]
            out |= {split: found} if found else {}
        if out:
            break
    return out or ({"train": [*names]} if names else {})


def _patterns(given: Any) -> dict[str, list[str]]:
    """`data_files` of a README, or of a workflow: split -> patterns; without a split they are those of train."""
    several = given if isinstance(given, list) else [given]
    if isinstance(given, dict):
        several = [{"split": split, "path": path} for split, path in given.items()]
    out: dict[str, list[str]] = {}
    for one in several:
        split, path = (str(one.get("split")), one.get("path")) if isinstance(one, dict) else ("train", one)
        out.setdefault(split, []).extend(str(p) for p in (path if isinstance(path, list) else [path]))
    return out


def _configured(names: Sequence[str], configs: Sequence[Mapping[str, Any]], repo: str, subset: str) -> Splits:
    """Split -> files, as the README says. Raises SourceError."""
    known = {str(one.get("config_name", "default")): one for one in configs}
    first = [name for name, one in known.items() if one.get("default") is True or name == "default"] or [*known]
    name = subset or (first[0] if len(first) == 1 else "")
    if name not in known:
        raise SourceError(
            f"{repo} has no subset {subset!r}." if subset else f"{repo} has several subsets, and none is named.",
            "A typing error, or a name of before.",
            nearest(subset, known),
        )
    folder = str(known[name].get("data_dir") or "")
    if "data_files" not in known[name]:
        return by_name(readable(matching(names, ["**"], folder)))
    return {s: matching(names, patterns, folder) for s, patterns in _patterns(known[name]["data_files"]).items()}


def splits(names: Sequence[str], configs: Any, repo: str, subset: str, folder: str) -> Splits:
    """Split -> files, of a repository with these names and these `configs` in its README. Raises SourceError."""
    if isinstance(configs, list) and all(isinstance(one, dict) for one in configs) and configs and not folder:
        return _configured(names, configs, repo, subset)
    inside = matching(names, ["**"], folder)
    if not subset or subset == "default":
        return by_name(readable(inside))
    found = by_name(readable(matching(inside, ["**"], "/".join(filter(None, (folder, subset))))))
    if not found:
        folders = {name.split("/")[0] for name in inside if "/" in name}
        raise SourceError(
            f"{repo} has no subset {subset!r}.",
            "Neither its README nor a folder is named so; what a script of it would make is not known.",
            nearest(subset, folders),
        )
    return found
