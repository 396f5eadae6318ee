"""A target file: which checkpoint, which device, which passes. Pure data, read strictly."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal

from onnxmake.build import like, paths, scripts, space, stages, tuning
from onnxmake.build.declaration import Declaration, declaration
from onnxmake.build.device import devices
from onnxmake.build.gates import Check
from onnxmake.build.named import staged
from onnxmake.build.naming import check_name
from onnxmake.build.schema import nearest, parse
from onnxmake.build.space import Search
from onnxmake.errors import TargetError

COMMIT = re.compile(r"[0-9a-f]{40}")
RESERVED = {"may_skip": (bool, "true or false"), "memory_mb": (int, "4000 or another number of megabytes")}

FORMS = {
    "device": 'device = "cpu"',
    "unproven": "unproven = true",
    "allow_scripts": "allow_scripts = true",
    "source": "[source]",
    "check": "[check]",
    "bench": "[bench]",
    "search": "[search]",
    "release": "[release]",
    "pass": "[[pass]]",
    "metric": "[[metric]]",
}
METRIC = "run_metric"  # the pass that a [[metric]] is


@dataclass(frozen=True)
class Source:
    """A checkpoint: a hub repository at a commit, or a folder relative to the target file."""

    repo: str | None = None
    revision: str | None = None
    path: str | None = None

    def __post_init__(self):
        if (self.repo is None) == (self.path is None):
            raise ValueError("[source] needs either repo and revision, or path")
        if self.path is not None and self.revision is not None:
            raise ValueError("revision goes with repo; a folder has none")
        if self.repo is not None and not COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                f"revision = {self.revision!r} is not a commit of 40 hex digits; a branch or tag may change under the build"
            )


@dataclass(frozen=True)
class Bench:
    """What `doit bench` runs."""

    prompt_tokens: tuple[int, ...] = (32, 256)
    new_tokens: int = 64
    repeats: int = 5

    def __post_init__(self):
        if not self.prompt_tokens or min(*self.prompt_tokens, self.new_tokens, self.repeats, self.repeats) < 1:
            raise ValueError("prompt_tokens, new_tokens and repeats must be at least 1")


@dataclass(frozen=True)
class Release:
    """What `doit release` says that it cannot know."""

    license: str | None = None  # as the hub names it, where the checkpoint's README.md does not
    version: str | None = None  # without it, digits of the content's digest


@dataclass(frozen=True)
class Use:
    """A pass with its options, resolved; `may_skip` allows a rewrite that changes nothing."""

    declaration: Declaration
    options: Any
    may_skip: bool = False
    memory_mb: int = 0  # what its process may use: as declared, or as the target says
    files: Mapping[str, Path] = field(
        default_factory=dict
    )  # that its options name: as the step sees each -> where it is
    hub: Mapping[str, str] = field(
        default_factory=dict
    )  # of those, what is a dataset's: as the step sees it -> its name
    made: tuple[str, ...] = ()  # files that its options name, too, and that a script before it makes


@dataclass(frozen=True)
class Target:
    """A read target file."""

    name: str
    file: Path
    description: str
    device: str
    source: Source
    passes: tuple[Use, ...]
    bench: Bench
    unproven: bool = False  # build also what no sweep has found right
    check: Check = Check()
    search: Search | None = None
    release: Release = Release()
    metrics: tuple[Use, ...] = ()  # that scripts evaluate


def _metric(table: dict, number: int, device: str, beside: Path, where: str) -> Use:
    """One of [[metric]], which names no pass: there is one."""
    if "use" in table:
        raise TargetError(
            f"{where}: [[metric]] {number}: unknown key 'use'.", "A metric is a script's.", "Leave it out."
        )
    return _use({"use": METRIC} | table, number, device, beside, where, "metric")


def _use(table: dict, number: int, device: str, beside: Path, where: str, key: str = "pass") -> Use:
    if table.get("use") == METRIC and key == "pass":
        raise TargetError(
            f"{where}: [[{key}]] {number} ({METRIC}) evaluates what is built, and is no step of a build.",
            "doit check makes it.",
            "Write it as [[metric]], without use.",
        )
    if not isinstance(table.get("use"), str):
        raise TargetError(
            f'{where}: [[{key}]] {number} has no use = "...".', "Each pass is named by its file.", 'Add use = "<pass>".'
        )
    options = {key: value for key, value in table.items() if key not in ("use", *RESERVED)}
    for name, (kind, form) in RESERVED.items():
        if name in table and (type(table[name]) is not kind or (kind is int and table[name] < 1)):
            raise TargetError(
                f"{where}: {name} of [[{key}]] {number} is not {form}.",
                "The value has the wrong type, or is out of range.",
                f"Write {name} = {form.split()[0]}.",
            )
    found = declaration(table["use"], f"{where}: [[{key}]] {number}: ")
    known = {f.name for f in fields(found.options)}
    if "device" in known:
        options.setdefault("device", device)
    place = f"{where}: [[{key}]] {number} ({found.name})"
    parsed, files = staged(parse(found.options, options, place), beside, place)
    return Use(found, parsed, table.get("may_skip", False), table.get("memory_mb", found.memory_mb), **files)


def _check(table: dict, file: Path, files: Mapping[str, Path] | None, where: str) -> Check:
    """[check], which may name another target."""
    check = parse(Check, table, f"{where}: [check]")
    if check.than is not None:
        others = {*(like.inside(file.parent) if files is None else files)} - {file.stem}
        if check.than not in others:
            raise TargetError(
                f"{where}: [check]: than = {check.than!r} is not the name of another target.",
                "min_decode compares the target with one that is built, too.",
                nearest(check.than, others),
            )
    return check


@functools.cache  # a class takes longer to make than a target to read
def _head(names: tuple[str, ...]) -> type:
    return make_dataclass("Head", [("device", Literal[names])])  # type: ignore[valid-type]


def read_target(
    file: Path, files: Mapping[str, Path] | None = None, reader: Callable = like.read, name: str | None = None
) -> Target:
    """Read one target file, which may be like another of `files`, name -> file, or else of the same folder; `name` is its file's
    unless given.

    Raises TargetError with file, key, what was expected and the nearest valid name.
    """
    where = paths.shown(file)
    name = check_name(name or file.stem, f"{where}: ")
    text, table = like.load(file, files, reader)
    tables: dict[str, type] = {
        "source": dict,
        "pass": list,
        "check": dict,
        "bench": dict,
        "search": dict,
        "release": dict,
        "metric": list,
    }
    allowed: dict[str, type] = {"device": str, "unproven": bool, "allow_scripts": bool, **tables}
    for key, value in table.items():
        if key not in allowed:
            raise TargetError(
                f"{where}: unknown key {key!r}.",
                "A typing error, or a table of another version.",
                nearest(key, {*allowed, "like"}),
            )
        if not isinstance(value, allowed[key]) or (
            allowed[key] is list and not all(isinstance(entry, dict) for entry in table[key])
        ):
            form = FORMS[key]
            raise TargetError(
                f"{where}: {key} is not written as {form}.", "The value has the wrong type.", f"Write {form}."
            )
    for key, advice in (
        ("source", "Add [source] with repo and revision, or path."),
        ("pass", 'Add [[pass]] with use = "export" and those that follow.'),
    ):
        if not table.get(key):
            raise TargetError(f"{where}: {key} is missing.", "A target needs a checkpoint and passes.", advice)
    head = parse(_head(tuple(devices())), {k: v for k, v in table.items() if k == "device"}, where)
    uses = tuple(_use(t, i, head.device, file.parent, where) for i, t in enumerate(table["pass"], 1))
    number, first = next(((i, u) for i, u in enumerate(uses, 1) if not u.declaration.tunes), (1, uses[0]))
    if any(not pattern.startswith("checkpoint/") for pattern in first.declaration.reads):
        raise TargetError(
            f"{where}: [[pass]] {number} ({first.declaration.name}) works on a graph, and none is there yet.",
            "The target does not begin with export.",
            'Add [[pass]] with use = "export" above it.',
        )
    tuning.check(uses, where)
    check = _check(table.get("check", {}), file, files, where)
    metrics = tuple(_metric(t, i, head.device, file.parent, where) for i, t in enumerate(table.get("metric", []), 1))
    scripts.check((*uses, *metrics), table.get("allow_scripts", False), check.made, where)
    target = Target(
        name,
        file,
        like.description(text),
        head.device,
        parse(Source, table["source"], f"{where}: [source]"),
        uses,
        parse(Bench, table.get("bench", {}), f"{where}: [bench]"),
        table.get("unproven", False),
        check,
        space.read(table["search"], uses, f"{where}: [search]") if "search" in table else None,
        parse(Release, table.get("release", {}), f"{where}: [release]"),
        metrics,
    )
    stages.check(uses, where)
    return target


def files_of(folders: Sequence[Path]) -> dict[str, Path]:
    """The target files of the folders, name -> file. A later folder wins. Raises TargetError for one that does not exist."""
    files: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise TargetError(
                f"The targets folder {folder} does not exist.",
                "ONNXMAKE_TARGETS names it.",
                "Correct ONNXMAKE_TARGETS, a list of folders.",
            )
        files |= like.inside(folder)
    return files


def read_targets(folders: Sequence[Path], more: Mapping[str, Path] | None = None) -> dict[str, Target | TargetError]:
    """Every target file of the folders by name, and `more`, name -> file.

    A broken one stands as its error, so that the others still build.
    """
    files = files_of(folders) | dict(more or {})
    reader = functools.cache(like.read)  # many are like one
    out: dict[str, Target | TargetError] = {}
    for name, file in files.items():
        try:
            out[name] = read_target(file, files, reader, name)
        except TargetError as error:
            out[name] = error
    return out
