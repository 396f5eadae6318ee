"""`search_strategy` as [search]."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from onnxmake.errors import TargetError
from onnxmake.olive.mapping import ALIASES, PASSES
from onnxmake.olive.one import ALL, LISTED
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Told
from onnxmake.olive.workflow import Pass, flat, known, wrong

STRATEGY = {
    *(
        "execution_order",
        "sampler",
        "sampler_config",
        "search_algorithm",
        "search_algorithm_config",
        "output_model_num",
    ),
    *("stop_when_goals_met", "max_iter", "max_time", "include_pass_params", "max_samples", "num_samples", "seed"),
}


def searched(search: Mapping[str, Any] | None) -> str:
    """What is varied, as one.settings takes it."""
    if search is None:
        return ""
    return ALL if search.get("include_pass_params", True) else LISTED


def _nothing(passes: Iterable[tuple[Pass, ...]]) -> str:
    """Why a search varies nothing of passes that leave no option open."""
    names = {name.lower(): name for name in (*PASSES, *ALIASES)}
    types = dict.fromkeys(names[one.type.lower()] for several in passes for one in several)
    if varied := [name for name in types if PASSES[ALIASES.get(name, name)].searched]:
        return (
            f"what Olive varies of {', '.join(varied)} is fixed here, by the workflow or as there is no option for it"
        )
    return f"Olive varies no option of {', '.join(types)}, and makes one model, too"


def search(
    where: str,
    given: Mapping[str, Any],
    evaluator: Mapping[str, Any],
    axes: Mapping[str, list],
    passes: Iterable[tuple[Pass, ...]],
    told: Told,
) -> Settings:
    """[search] over what these passes leave open; empty where that is nothing, which is told with its reason. Raises TargetError."""
    strategy = dict(given)
    for nested in ("sampler_config", "search_algorithm_config"):
        strategy = flat(strategy, nested, where, "search_strategy")
    known(where, "search_strategy", strategy, STRATEGY)
    if not evaluator:
        raise TargetError(
            f"{where}: search_strategy without an evaluator.",
            "Olive would not know what to look for.",
            "Name one of evaluators as evaluator.",
        )
    if not axes:
        told.note("search_strategy", f"there is nothing to search: {_nothing(passes)}")
        return {}
    points = math.prod(len(values) for values in axes.values())
    trials = strategy.get("max_samples") or strategy.get("num_samples") or strategy.get("max_iter") or points
    if type(trials) is not int:
        raise wrong(where, "search_strategy: the number of samples", trials, "a whole number")
    told.note("search_strategy", "the search looks for little KL divergence and size; doit bench measures speed")
    if strategy.get("execution_order") == "pass-by-pass":
        told.note("search_strategy", "options of all passes are searched together")
    if unheeded := [name for name in ("max_time", "stop_when_goals_met") if strategy.get(name)]:
        told.note("search_strategy", f"all trials are made: {' and '.join(unheeded)} not heeded")
    return {
        "search.trials": trials,
        "search.seed": strategy.get("seed", 0),
        **{f"search.{label}": values for label, values in axes.items()},
    }
