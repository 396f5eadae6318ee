"""Optuna's record of a search: which points were tried, with which figures, and which is the next."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxmake.build import quality
from onnxmake.build.files import canonical_json, digest_text
from onnxmake.build.plan import Step
from onnxmake.build.space import LARGER, Point
from onnxmake.build.target import Target
from onnxmake.errors import EnvironmentMissing


def opened(target: Target, steps: Sequence[Step], folder: Path) -> Any:
    """Optuna's record of this target, text and space: what it tried before, it knows. Raises EnvironmentMissing."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise EnvironmentMissing(
            f"doit search needs Optuna: {error}.",
            "It is installed on request only.",
            "pip install -e '.[search]'",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = target.search.settings
    depends = [
        [step.id for step in steps],
        steps[0].checkpoint.record["files"],
        target.check.settings,
        quality.text_key(target),
        dataclasses.asdict(target.search),
    ]
    name = digest_text(canonical_json(depends))
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "trials.log")))
    directions: Any = ["maximize" if name in LARGER else "minimize" for name in settings.objectives]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
    return study


def asked(study: Any, target: Target) -> tuple[Any, Point]:
    """The next trial and its point: of a grid that is small enough, one that was not tried."""
    if target.search.size <= target.search.settings.trials:
        tried = [trial.params for trial in told(study)]
        study.enqueue_trial(next(point for point in target.search.grid if point not in tried))
    trial, point = study.ask(), {}
    for axis in target.search.axes:
        if axis.values:
            point[axis.label] = trial.suggest_categorical(axis.label, axis.values)
        elif isinstance(axis.low, int) and isinstance(axis.high, int):
            point[axis.label] = trial.suggest_int(axis.label, axis.low, axis.high)
        else:
            point[axis.label] = trial.suggest_float(axis.label, axis.low, axis.high)
    return trial, point


def told(study: Any) -> list[Any]:
    """Trials that ended, with figures or refused; what was interrupted is tried again."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def refuse(study: Any, trial: Any) -> None:
    """There are no figures of the trial's point, and never will be."""
    from optuna.trial import TrialState

    study.tell(trial, state=TrialState.FAIL)
