"""The graphs that travel with the checkout: exports of shipped targets, as store entries in targets/prebuilt/.

A hub checkpoint's graph needs its config.json only, and travels if that does, as <repository>.config.json beside the entries: a
skeleton checkpoint of that architecture, without weights, is exported in its place.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from onnxmake.build import execute, job, key, locks, paths, runner, store
from onnxmake.build.job import Job
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target, read_targets


def exports() -> Iterator[tuple[Target, Step]]:
    """The first target of each source that travels, and its export step on its folder, or on a skeleton in build/skeletons."""
    seen = set()
    for target in read_targets([paths.TARGETS]).values():
        if isinstance(target, Exception):
            raise target
        local = target.source.path
        if target.source not in seen and (local or config_of(target).is_file()):
            seen.add(target.source)
            folder = (target.file.parent / local).resolve() if local else paths.BUILD / "skeletons" / _name(target)
            export = next(use for use in target.passes if use.declaration.name == "export")
            yield target, Step(export, Checkpoint(target.source, folder), None)


def _name(target: Target) -> str:
    return target.source.repo.split("/")[-1].lower()


def config_of(target: Target) -> Path:
    """The configuration of a hub checkpoint that travels with the checkout."""
    return store.PREBUILT / f"{_name(target)}.config.json"


def _skeleton(config: Path, folder: Path) -> Job:
    program = job.module("onnxmake.model.skeleton", "torch", read=[str(config)], write=(str(folder),))
    return dataclasses.replace(program, arguments=(*program.arguments, str(config), str(folder)))


def refresh() -> None:
    """Export every shipped target's graph and replace targets/prebuilt/ by the entries."""
    entries = {}
    for target, step in exports():
        folder = step.checkpoint.folder
        if target.source.path is None:
            folder.mkdir(parents=True, exist_ok=True)
            runner.call(_skeleton(config_of(target), folder), paths.BUILD / "logs" / f"skeleton-{target.name}.log")
        execute.make_source(step.checkpoint)
        execute.make_step(step, [target.name])
        entries[target.name] = store.find(key.digest(key.explain(step)))
    fresh = locks.scratch(paths.CACHE) / "prebuilt"  # the entries may come from the folder that they replace
    for name, entry in entries.items():
        store.copy(entry, fresh)
        say(f"{name}: {sum(size for _, size in entry.files.values()):,} bytes")
    for part in ("entries", "objects"):
        shutil.rmtree(store.PREBUILT / part, ignore_errors=True)
        shutil.copytree(fresh / part, store.PREBUILT / part)
