"""A release file, targets/NAME.release.toml: targets of one checkpoint that are released together, one for each device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import like, paths
from onnxmake.build.report import say
from onnxmake.build.schema import nearest, parse
from onnxmake.build.show import value
from onnxmake.build.target import Target
from onnxmake.errors import OnnxmakeError, TargetError

Targets = Mapping[str, tuple[Target, Sequence[Any]]]  # and their steps
ALIKE: list[tuple[Callable, str, str]] = [  # what targets that are released together have in common
    (lambda target, steps: steps[0].checkpoint.id, "are of different checkpoints", "[source]"),
    (lambda target, steps: steps[-1].name, "end with different passes", "the last [[pass]]"),
]


@dataclass(frozen=True)
class Keys:
    """What the file may say."""

    targets: tuple[str, ...]
    version: str | None = None  # without it, digits of the content's digest

    def __post_init__(self):
        if not self.targets:
            raise ValueError("targets is empty; it names those to release together")
        if twice := [name for name in self.targets if self.targets.count(name) > 1]:
            raise ValueError(f"targets names {twice[0]} twice")


@dataclass(frozen=True)
class ReleaseFile:
    """A read release file."""

    name: str
    file: Path
    description: str
    keys: Keys


def read_release(file: Path, targets: Targets, broken: Mapping[str, OnnxmakeError]) -> ReleaseFile:
    """Read one release file, whose targets are among these. Raises TargetError."""
    name, where = file.name.removesuffix(like.RELEASE), paths.shown(file)
    text, table = like.read(file)
    keys = parse(Keys, table, where)
    if name in {*targets, *broken}:
        raise TargetError(
            f"{where}: a target is named {name}, too.",
            f"doit release:{name} would be of two things.",
            "Rename this file.",
        )
    for named in keys.targets:
        if named in broken:
            raise TargetError(
                f"{where}: {named} is broken: {broken[named].fact}", broken[named].cause, broken[named].action
            )
        if named not in targets:
            raise TargetError(
                f"{where}: no target is named {named!r}.",
                "A typing error, or its file is neither in targets/ nor in a folder of ONNXMAKE_TARGETS.",
                nearest(named, targets),
            )
    first, *others = keys.targets
    for other in others:
        for of, fact, key in ALIKE:
            if of(*targets[first]) != of(*targets[other]):
                raise TargetError(
                    f"{where}: {first} and {other} {fact}.",
                    "A release is of one model, in a variant for each device.",
                    f"Name others, or correct {key} of one of them.",
                )
    devices: dict[str, str] = {}
    for named in keys.targets:
        device = targets[named][0].device
        if device in devices:
            raise TargetError(
                f"{where}: {devices[device]} and {named} are both for {device}.",
                "A release has one variant for each device.",
                "Remove one of them.",
            )
        devices[device] = named
    return ReleaseFile(name, file, like.description(text), keys)


def read_releases(
    folders: Sequence[Path], targets: Targets, broken: Mapping[str, OnnxmakeError]
) -> tuple[dict[str, ReleaseFile], dict[str, OnnxmakeError]]:
    """Every release file of the folders by name, and the errors of those that are broken. A later folder wins."""
    files = {f.name.removesuffix(like.RELEASE): f for at in folders for f in sorted(at.glob(f"*{like.RELEASE}"))}
    out: dict[str, ReleaseFile] = {}
    wrong: dict[str, OnnxmakeError] = {}
    for name, file in files.items():
        try:
            out[name] = read_release(file, targets, broken)
        except TargetError as error:
            wrong[file.stem if name in {*targets, *broken} else name] = error
    return out, wrong


def show(release: ReleaseFile) -> None:
    """Print the release file."""
    stated = {key: given for key, given in vars(release.keys).items() if given is not None}
    say("\n".join([f"# {release.description}", *(f"{key} = {value(given)}" for key, given in stated.items())]))
