"""Make things exist: checkpoints, steps and dist folders. Each function returns at once where nothing is to do."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import (
    budget,
    fetch,
    history,
    key,
    locks,
    paths,
    quality,
    reproduced,
    results,
    runner,
    source,
    staging,
    store,
    support,
)
from onnxmake.build.digest import digest_file
from onnxmake.build.files import canonical_json, storage_errors
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target
from onnxmake.errors import ObjectLost


def make_source(checkpoint: Checkpoint) -> None:
    """Describe the checkpoint, fetching it first if it is on the hub."""
    folder = checkpoint.folder
    if folder is None:
        folder = fetch.fetch(checkpoint)
    runner.prepare("cpu")  # it loads while this process reads the weights for their digest
    source.save_manifest(checkpoint, folder)


def is_current(step: Step) -> bool:
    """Whether the step's manifest was made from today's inputs, code, options and lock, and its files are in the
    store. Raises StoreError where there is no manifest."""
    record = step.record
    return record["key"] == key.digest(key.explain(step)) and store.is_whole(record["files"])


def make_step(step: Step, targets: Sequence[str]) -> None:
    """Restore the step's result from the store, or run its pass; then write its manifest.

    `targets`: names of those that want it, in whose past the reason is looked for.
    """
    key.look_again()
    fetch.data_of(step.use)
    explained = key.explain(step)
    because = history.reasons(step, explained, targets)
    digest = key.digest(explained)
    started = time.monotonic()
    with store.locked(digest):
        entry = store.find(digest)
        verb = "restored" if entry else "ran"
        if entry is None:
            entry = _mending(lambda: _run(step, explained, digest), step.chain[:-1], targets)
    store.touch(entry)
    history.save(step, entry, verb, because)
    memory = f" {entry.memory / 1e6:6,.0f} MB" if entry.memory and verb == "ran" else ""
    say(f"  {step.name:<16} {verb:<9} {time.monotonic() - started:6.2f} s{memory}")


def _mending(act: Callable[[], Any], steps: Sequence[Step], targets: Sequence[str]) -> Any:
    """Act; if a result of `steps` turns out damaged, make what is not whole again, and act once more."""
    try:
        return act()
    except ObjectLost as error:
        say(f"{error.fact} It is made again.")
    for step in steps:
        if not is_current(step):
            make_step(step, targets)
    return act()


def _run(step: Step, explained: dict, digest: str) -> store.Entry:
    declared = step.use.declaration
    with budget.machine().take(step.use.memory_mb, declared.gpus) as gpus, staging.staged(step, explained) as work:
        started = time.monotonic()
        job = staging.job_of(step, explained, work, gpus)
        result = runner.run(job, staging.action(step, job, work), step.log, step.name)
        staging.check_unchanged(step, explained, work)
        kept = {name: step.before.record["files"][name] for name in result["kept"]}
        took, memory = time.monotonic() - started, result["memory"]
        entry = store.commit(digest, explained, work / "out", took, kept, memory=memory)
    shutil.rmtree(staging.state_of(explained), ignore_errors=True)
    return entry


def record_of(target: Target, steps: list[Step]) -> dict:
    """What dist/<target>/manifest.json says: the files, the key of every step behind them, whether they ever ran, how good they are
    and whether a second build gave the same."""
    manifests = [s.record for s in steps]
    files = manifests[-1]["files"]
    return {
        "target": target.name,
        "device": target.device,
        "source": vars(target.source),
        "files": files,
        "steps": [{"pass": s.name, "key": m["key"]} for s, m in zip(steps, manifests)],
        "status": results.status(target, files),
        "proof": support.proof(target, steps[0].checkpoint),
        "quality": quality.summary(target, files),
        "reproduced": reproduced.summary(target, files),
    }


def is_delivered(target: Target, steps: list[Step]) -> bool:
    """Whether dist/<target> holds exactly the last step's files, byte for byte."""
    folder = paths.DIST / target.name
    record = record_of(target, steps)
    try:
        with open(f"{folder}/manifest.json", "rb", buffering=0) as manifest:
            same = manifest.read() == canonical_json(record).encode()
        return same and all(digest_file(f"{folder}/{name}") == sha for name, (sha, _) in record["files"].items())
    except OSError:
        return False


def deliver(target: Target, steps: list[Step]) -> None:
    """Put real files into dist/<target>, replacing the folder as a whole."""
    folder = paths.DIST / target.name
    record = record_of(target, steps)
    with storage_errors(f"replace {paths.shown(folder)}"):
        work = Path(tempfile.mkdtemp(dir=locks.scratch(paths.DIST)))
        _mending(lambda: _lay_out(record["files"], work / "new"), steps, [target.name])
        (work / "new" / "manifest.json").write_text(canonical_json(record), "utf-8")
        with store.locked(f"dist-{target.name}"):
            if folder.exists():
                os.replace(folder, work / "old")
            os.replace(work / "new", folder)
        shutil.rmtree(work, ignore_errors=True)
    history.save_chain(target.name, steps)
    size = sum(size for _, size in record["files"].values())
    say(f"build:{target.name}: {paths.shown(folder)} ({size / 1e6:,.1f} MB)")


def _lay_out(files: Mapping[str, list], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    store.lay_out(files, folder, link=False)


def clean(target: Target) -> None:
    """Remove dist/<target>; the store keeps the steps' results."""
    shutil.rmtree(paths.DIST / target.name, ignore_errors=True)
