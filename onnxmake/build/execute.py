"""Make things exist: checkpoints, steps and dist folders. Each function returns at once where nothing is to do."""

import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from onnxmake.build import key, paths, process, runner, source, store
from onnxmake.build.digest import canonical_json, digest_file, remember
from onnxmake.build.files import read_json, storage_errors, write_atomically
from onnxmake.build.plan import Step
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target


def make_source(checkpoint: Checkpoint) -> None:
    """Describe the checkpoint, fetching it first if it is on the hub."""
    folder = checkpoint.folder
    if folder is None:
        wanted = checkpoint.source
        started = time.monotonic()
        folder = Path(
            runner.run(
                "onnxmake.model.hub",
                {"repo": wanted.repo, "revision": wanted.revision, "patterns": list(source.FILES)},
                "cpu",
                paths.BUILD / "logs" / f"fetch-{checkpoint.id}.log",
                f"fetch {wanted.repo}",
                network=True,
            )
        )
        say(f"{wanted.repo} at {wanted.revision[:12]}: {folder} ({time.monotonic() - started:.1f} s)")
    process.prepare("cpu")  # it loads while this process reads the weights for their digest
    source.save_manifest(checkpoint, folder)


def is_current(step: Step) -> bool:
    """Whether the step's manifest was made from today's inputs, code, options and lock, and its files are in the
    store."""
    upstream = [step.checkpoint.manifest, *([step.before.manifest] if step.before else [])]
    if not step.manifest.exists() or not all(p.exists() for p in upstream):
        return False
    record = read_json(step.manifest)
    return record["explained"] == key.explain(step) and store.find(record["key"]) is not None


def make_step(step: Step) -> None:
    """Restore the step's result from the store, or run its pass; then write its manifest."""
    explained = key.explain(step)
    digest = key.digest(explained)
    started = time.monotonic()
    with store.locked(digest):
        entry = store.find(digest)
        verb = "restored" if entry else "ran"
        if entry is None:
            entry = _run(step, explained, digest)
    write_atomically(step.manifest, canonical_json({"key": digest, "explained": explained, "files": entry.files}))
    say(f"  {step.name:<16} {verb:<9} {time.monotonic() - started:6.2f} s")


def _run(step: Step, explained: dict, digest: str) -> store.Entry:
    saved_by = read_json(step.checkpoint.manifest)["saved_by"]
    started = time.monotonic()
    with store.workspace() as work:
        src, out = work / "src", work / "out"
        out.mkdir()
        known = _stage(step, explained["inputs"], src)
        action = {
            "pass": step.name,
            "file": str(step.use.declaration.path),
            "options": asdict(step.use.options),
            "may_skip": step.use.may_skip,
            "src": str(src),
            "out": str(out),
            "hint": f"The checkpoint was saved by Transformers {saved_by}." if saved_by else "",
        }
        runner.run("onnxmake.model.step", action, step.use.declaration.environment, step.log, step.name)
        return store.commit(digest, explained, out, time.monotonic() - started, known)


def _stage(step: Step, inputs: dict[str, str], src: Path) -> dict[tuple[int, int], str]:
    """Lay out what the step sees.

    Its input's files linked read-only, the checkpoint's as links to where they are. Returns digests by (device, inode).
    """
    record = read_json(step.checkpoint.manifest)
    derived = step.checkpoint.manifest.parent
    with storage_errors("stage a step's inputs"):
        (src / "checkpoint").mkdir(parents=True)
        for name in inputs:
            if name.startswith(key.PREFIX):
                base = name.removeprefix(key.PREFIX)
                original = derived / base if (derived / base).exists() else Path(record["folder"]) / base
                os.symlink(original, src / name)
    if step.before:
        files = {name: value for name, value in read_json(step.before.manifest)["files"].items() if name in inputs}
        store.lay_out(files, src, link=True)
    return {
        (s.st_dev, s.st_ino): sha
        for name, sha in inputs.items()
        if not name.startswith(key.PREFIX)
        for s in [(src / name).stat()]
    }


def record_of(target: Target, steps: list[Step]) -> dict:
    """What dist/<target>/manifest.json says: the files, and the key of every step behind them."""
    manifests = [read_json(s.manifest) for s in steps]
    return {
        "target": target.name,
        "device": target.device,
        "source": asdict(target.source),
        "files": manifests[-1]["files"],
        "steps": [{"pass": s.name, "id": s.id, "key": m["key"]} for s, m in zip(steps, manifests)],
    }


def is_delivered(target: Target, steps: list[Step]) -> bool:
    """Whether dist/<target> holds exactly the last step's files, byte for byte."""
    folder = paths.DIST / target.name
    if (
        not steps[-1].manifest.exists()
        or not all(s.manifest.exists() for s in steps)
        or not (folder / "manifest.json").exists()
    ):
        return False
    record = record_of(target, steps)
    return read_json(folder / "manifest.json") == record and all(
        (folder / name).is_file() and digest_file(folder / name) == sha for name, (sha, _) in record["files"].items()
    )


def deliver(target: Target, steps: list[Step]) -> None:
    """Put real files into dist/<target>, replacing the folder as a whole."""
    folder, fresh, old = (
        paths.DIST / target.name,
        paths.DIST / f".new-{target.name}-{os.getpid()}",
        paths.DIST / f".old-{target.name}-{os.getpid()}",
    )
    record = record_of(target, steps)
    try:
        store.lay_out(record["files"], fresh, link=False)
        for name, (sha, _) in record["files"].items():
            remember(fresh / name, sha)
        write_atomically(fresh / "manifest.json", canonical_json(record))
        with storage_errors(f"replace {paths.shown(folder)}"), store.locked(f"dist-{target.name}"):
            if folder.exists():
                os.replace(folder, old)
            os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    size = sum(size for _, size in record["files"].values())
    say(f"build:{target.name}: {paths.shown(folder)} ({size / 1e6:,.1f} MB)")


def clean(target: Target) -> None:
    """Remove dist/<target>; the store keeps the steps' results."""
    shutil.rmtree(paths.DIST / target.name, ignore_errors=True)
