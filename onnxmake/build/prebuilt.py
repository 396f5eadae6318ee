"""The graphs that travel with the checkout: the export of every shipped target, as store entries in targets/prebuilt/.

A hub target's graph needs its config.json only, which stands beside the entries as <target>.config.json: a skeleton
checkpoint of that architecture, without weights, is exported in its place.
"""

import shutil
from collections.abc import Iterator

from onnxmake.build import execute, key, locks, paths, runner, store
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target, read_targets


def exports() -> Iterator[tuple[Target, Step]]:
    """Each shipped target and its export step on the target's own folder, or on a skeleton in build/skeletons."""
    for name, target in read_targets([paths.TARGETS]).items():
        if isinstance(target, Exception):
            raise target
        local = target.source.path
        folder = (target.file.parent / local).resolve() if local else paths.BUILD / "skeletons" / name
        yield target, Step(target.passes[0], Checkpoint(target.source, folder), None)


def refresh() -> None:
    """Export every shipped target's graph and replace targets/prebuilt/ by the entries."""
    entries = {}
    for target, step in exports():
        folder = step.checkpoint.folder
        if target.source.path is None:
            config = store.PREBUILT / f"{target.name}.config.json"
            action = ["-m", "onnxmake.model.skeleton", str(config), str(folder)]
            runner.call(action, "torch", paths.BUILD / "logs" / f"skeleton-{target.name}.log")
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
