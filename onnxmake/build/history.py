"""What was built here before, and what has changed since: the reason for every run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import garbage, key, paths, runner, store
from onnxmake.build.files import read_record, write_record
from onnxmake.build.plan import Step
from onnxmake.build.store import Entry


def save(step: Step, entry: Entry, verb: str, because: Sequence[str]) -> None:
    """Write the step's manifest: its key, files, and how and why they came to be. The key's document is in the store."""
    record = {
        "key": entry.key,
        "files": entry.files,
        "seconds": entry.seconds,
        "memory": entry.memory,
        "verb": verb,
        "runner": runner.chosen(step.use.declaration.environment) if verb == "ran" else "store",
        "because": list(because),
    }
    garbage.register(paths.OUTPUT)
    write_record(step.manifest, record)


def save_chain(target: str, steps: Sequence[Step]) -> None:
    """Note which steps a target was last delivered from; it outlives dist."""
    write_record(_chain(target, paths.BUILD), {"steps": [{"pass": step.name, "id": step.id} for step in steps]})


def chain(target: str, build: Path | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(pass, record) of the steps that the target was last delivered from, as far as they are still known; of another output, that
    whose folder `build` is."""
    folder = build or paths.BUILD
    made = (read_record(_chain(target, folder)) or {"steps": []})["steps"]
    records = [(m["pass"], read_record(folder / "steps" / f"{m['id']}.json")) for m in made]
    return [(name, record) for name, record in records if record is not None]


def _chain(target: str, build: Path) -> Path:
    return build / "targets" / f"{target}.json"


def previous(step: Step, targets: Sequence[str]) -> dict[str, Any] | None:
    """The step's own last record, or of a step with other options that had its place in one of the targets."""
    own = read_record(step.manifest)
    if own is not None:
        return own
    return next((record for target in targets for name, record in chain(target) if name == step.name), None)


def reasons(step: Step, explained: Mapping[str, Any], targets: Sequence[str]) -> list[str]:
    """Why the step is not up to date: each leaf of its key that differs, with old and new value."""
    last = previous(step, targets)
    if last is None:
        return ["first build here"]
    if last["key"] == key.digest(explained):
        return ["its files are not in the store any more"]
    document = store.document(last["key"])
    if document is None:
        return ["its last key is not in the store any more"]
    changes = key.difference(document, dict(explained))
    origin = f" (made by {step.before.name})" if step.before else ""
    others = (f"inputs.{key.PREFIX}", "inputs.calibration.", "inputs.data.")  # that no step makes
    return [line + origin if line.startswith("inputs.") and not line.startswith(others) else line for line in changes]
