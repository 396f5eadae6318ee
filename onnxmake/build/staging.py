"""What a step sees: a folder with its inputs read-only, an empty one for its output, and the code that its key names."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxmake.build import job, key, locks, paths, process, store
from onnxmake.build.digest import digest_file
from onnxmake.build.files import storage_errors
from onnxmake.build.job import Job
from onnxmake.build.plan import Step
from onnxmake.errors import StepFailed


def _originals(step: Step, inputs: Mapping[str, str]) -> dict[str, Path]:
    """Staged name -> where the file is, of the checkpoint or named by an option."""
    derived = step.checkpoint.manifest.parent
    folder, tuned = Path(step.checkpoint.record["folder"]), step.tuned
    bases = {name: name.removeprefix(key.PREFIX) for name in inputs if name.startswith(key.PREFIX)}
    names = {name: base for name, base in bases.items() if base not in tuned}
    found = {name: (derived if (derived / base).exists() else folder) / base for name, base in names.items()}
    return found | {**step.use.files}


def _made(step: Step, inputs: Mapping[str, str]) -> dict[str, list]:
    """Staged name -> [sha256, size] of what earlier steps have made."""
    before = step.before.record["files"] if step.before else {}
    tuned = {key.PREFIX + name: value for name, value in step.tuned.items()}
    return {name: value for name, value in (before | tuned).items() if name in inputs}


def state_of(explained: Mapping[str, Any]) -> Path:
    """Where a step of this key, if its pass resumes, keeps what a run that is stopped can be gone on from."""
    return paths.CACHE / "states" / key.digest(explained)


@contextlib.contextmanager
def staged(step: Step, explained: Mapping[str, Any]) -> Iterator[Path]:
    """A folder with src/ (its input's files, links to the checkpoint's), out/ and tmp/; of a pass that resumes, state/, too.
    Raises StoreError."""
    inputs = explained["inputs"]
    with storage_errors("stage a step's inputs"):
        work = Path(tempfile.mkdtemp(dir=locks.scratch(paths.CACHE)))
        for name in ("src/checkpoint", "out", "tmp"):
            (work / name).mkdir(parents=True)
        for name, original in _originals(step, inputs).items():
            (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(original, work / "src" / name)
        if step.use.declaration.resumes:
            state_of(explained).mkdir(parents=True, exist_ok=True)
            os.symlink(state_of(explained), work / "state")
    linked: dict[Path, str] = {}
    try:
        if made := _made(step, inputs):
            store.lay_out(made, work / "src", link=True)
            linked = {work / "src" / name: sha for name, (sha, _) in made.items()}
        yield work
    finally:
        with store.unlinking(linked):
            shutil.rmtree(work, ignore_errors=True)


def job_of(step: Step, explained: Mapping[str, Any], work: Path, gpus: Sequence[int]) -> Job:
    """The step's process: which paths it may read and write, and what else its pass declares."""
    declared = step.use.declaration
    originals = _originals(step, explained["inputs"]).values()
    code = [paths.ROOT / file for file in explained["code"]]
    folders = ("out", "tmp", "state") if declared.resumes else ("out", "tmp")
    return job.step(
        declared.environment,
        explained["code"],
        read=tuple(map(str, (work / "src", *originals, *code))),
        write=(*(str(work / name) for name in folders), process.kernel_cache(declared.environment)),
        memory_mb=step.use.memory_mb,
        seconds=declared.timeout_s,
        gpus=tuple(gpus),
        unit=declared.unit,
    )


def action(step: Step, job: Job, work: Path) -> dict[str, Any]:
    """What the step's process is told: its pass and options, where its files are, and what it may read and write."""
    saved_by = step.checkpoint.record["saved_by"]
    return {
        "pass": step.name,
        "file": str(step.use.declaration.path),
        "options": asdict(step.use.options),
        "may_skip": step.use.may_skip,
        "work": str(work),
        "read": job.read,
        "write": job.write,
        "hint": f"The checkpoint was saved by Transformers {saved_by}." if saved_by else "",
    }


def check_unchanged(step: Step, explained: Mapping[str, Any], work: Path) -> None:
    """Raise StepFailed if code or an input is not what it was when the step began: its result would bear the wrong key."""
    key.look_again()
    changed = key.difference(explained, key.explain(step))
    for name, sha in explained["inputs"].items():
        path = work / "src" / name
        if not path.exists() or digest_file(path) != sha:
            changed.append(f"inputs.{name}")
    if changed:
        raise StepFailed(
            f"Inputs of {step.name} changed while it ran: {'; '.join(changed)}.",
            "A file was edited meanwhile, or the pass writes to its inputs.",
            "Build again; a pass must write to its output folder only.",
        )
