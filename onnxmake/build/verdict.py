"""What a build would do and why, step by step, without doing it: what a restore would give is known, what a run gives is not."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmake.build import dataset, execute, history, key, source, store
from onnxmake.build.files import read_record
from onnxmake.build.plan import Plan, Step
from onnxmake.build.source import Checkpoint
from onnxmake.errors import OnnxmakeError

UP_TO_DATE, RESTORE, RUN, DEPENDS = "up to date", "restore", "run", "depends"


@dataclass(frozen=True)
class Verdict:
    """`task` names the source, the step's id or the target; `seconds` is how long it took last time, if it is known."""

    task: str
    name: str
    verdict: str
    reasons: tuple[str, ...] = ()
    seconds: float | None = None


def _source(checkpoint: Checkpoint) -> tuple[Verdict, Mapping[str, str] | None]:
    """The verdict, and the files it will list, where that can be known before a fetch."""
    label = (checkpoint.id, "source")
    record = read_record(checkpoint.manifest)
    if source.is_current(checkpoint):
        return Verdict(*label, UP_TO_DATE), record["files"]
    if checkpoint.folder is None:
        where = f"{checkpoint.source.repo} at {checkpoint.source.revision[:12]}"
        return Verdict(*label, RUN, (f"{where}: not fetched here yet, or its files have changed",)), None
    try:
        manifest, _ = source.describe(checkpoint.folder)
    except OnnxmakeError as error:
        return Verdict(*label, RUN, (f"it will fail: {error.fact}",)), None
    changes = key.difference(record["files"], manifest["files"]) if record else ["not seen here yet"]
    return Verdict(*label, RUN, tuple(changes) or ("its manifest is damaged",)), manifest["files"]


def _step(
    step: Step, checkpoint: Mapping[str, str] | None, made: Mapping[str, list] | None, stale: str, users: list[str]
) -> tuple[Verdict, Mapping | None]:
    """The verdict, and name -> [sha256, size] of what the step will give, where that can be known.

    `stale`: why `checkpoint` or `made`, what the step will see, is not known.
    """
    label = (step.id, step.name)
    last = history.previous(step, users)
    seconds = last["seconds"] if last else None
    if checkpoint is None or made is None:
        return Verdict(*label, DEPENDS, (f"on {stale}",), seconds), None
    if missing := dataset.missing(step.use.hub):
        return Verdict(*label, RUN, (f"{missing[0]}: not fetched here yet, or changed",), seconds), None
    try:
        explained = key.explain(step, checkpoint, made)
    except OnnxmakeError as error:
        return Verdict(*label, RUN, (f"it will fail: {error.fact}",)), None
    record = read_record(step.manifest)
    if record and record["key"] == key.digest(explained) and store.is_whole(record["files"]):
        past = f"{record['verb']} last time: {'; '.join(record['because'])}"
        return Verdict(*label, UP_TO_DATE, (past,), seconds), record["files"]
    reasons = tuple(history.reasons(step, explained, users))
    entry = store.find(key.digest(explained))
    if entry:
        return Verdict(*label, RESTORE, reasons, entry.seconds), entry.files
    return Verdict(*label, RUN, reasons, seconds), None


def judge(plan: Plan, names: list[str]) -> dict[str, list[Verdict]]:
    """For each target, from its checkpoint to dist. A step that several share is judged once."""
    users = plan.users
    sources = {c.id: _source(c) for c in {plan.targets[n][1][0].checkpoint for n in names}}
    steps: dict[str, tuple[Verdict, Mapping | None]] = {}
    told: dict[str, list[Verdict]] = {}
    for name in names:
        target, chain = plan.targets[name]
        first, found = sources[chain[0].checkpoint.id]
        checkpoint_files = None if found is None else dict(found)
        told[name], stale = [first], "source" if checkpoint_files is None else ""
        made: Mapping | None = {}
        for step in chain:
            if step.id not in steps:
                steps[step.id] = _step(step, checkpoint_files, made, stale, users[step.id])
            verdict, made = steps[step.id]
            told[name].append(verdict)
            stale = step.name if made is None else stale
            if step.use.declaration.tunes and made is not None and checkpoint_files is not None:
                checkpoint_files = checkpoint_files | {file: sha for file, (sha, _) in made.items()}
        told[name].append(_dist(name, target, chain, told[name]))
    return told


def _dist(name: str, target, chain: list[Step], before: list[Verdict]) -> Verdict:
    stale = next((v.name for v in reversed(before[1:]) if v.verdict != UP_TO_DATE), None)
    if stale:
        return Verdict(name, "dist", RUN, (f"follows {stale}",))
    if execute.is_delivered(target, chain):
        return Verdict(name, "dist", UP_TO_DATE)
    return Verdict(name, "dist", RUN, ("dist holds other files, or none",))
