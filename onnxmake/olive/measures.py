"""`evaluators` as [check] and [bench], and `search_strategy` as [search]."""

from collections.abc import Callable, Mapping
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
from onnxmake.olive import scripted
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Refusal, Told
from onnxmake.olive.workflow import entries, flat, known, table, wrong

KEYS = {
    "name",
    "type",
    "type_args",
    "user_script",
    "script_dir",
    "metrics",
    "tasks",
    "batch_size",
    "limit",
    "model_class",
}
MORE = {
    "max_length",
    "provider_options",
    "execution_provider",
    "device",
    "bootstrap_iters",
    "ep_options",
    "max_gen_toks",
}
METRIC = {"sub_type", "name", "type", "backend", "sub_types", "user_config", "data_config", "priority_rank"}
SUB = {"name", "metric_config", "priority", "higher_is_better", "goal", "priority_rank"}
TYPES = ("accuracy", "latency", "throughput", "size_on_disk", "custom")
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
FALLS = {"percent-max-degradation": 100.0, "max-degradation": 1.0}  # of a metric, by so much at most
TRIALS = 20
Own = Callable[[str, str, Mapping[str, Any]], None]  # place, name and user_config of a metric that a script evaluates


def _gate(where: str, item: str, metric: str, sub: Mapping[str, Any], note: Callable[[str], None]) -> Settings:
    """A goal as a gate of [check], of what `doit check` computes. Raises TargetError."""
    goal, name = table(where, f"{item}.goal", sub.get("goal") or {}), sub.get("name")
    kind, value = str(goal.get("type")), goal.get("value")
    if not goal:
        return {}
    if type(value) not in (int, float):
        raise wrong(where, f"{item}.goal.value", value, "a number")
    if metric == "accuracy" and name == "perplexity" and kind == "percent-max-degradation":
        return {"check.max_perplexity_rise": value / 100}
    if metric == "accuracy" and name != "perplexity" and kind in FALLS:
        note(f"{name} is judged by how often the unquantised model's answer is the same")
        return {"check.min_top1": 1 - value / FALLS[kind]}
    if metric == "size_on_disk" and kind == "threshold":
        return {"check.max_size_mb": value / 1e6}
    note(f"the goal of {name} is not a gate here; doit bench and doit check show the figures")
    return {}


def _scripted(
    where: str, item: str, metric: Mapping[str, Any], config: Mapping[str, Any], own: Own, out: Settings, told: Told
) -> Settings:
    """Limits of what a script evaluates: goals that name a value."""
    subs = entries(where, f"{item}.sub_types", metric.get("sub_types")) or [
        metric.get("sub_type") or metric.get("name")
    ]
    named = [{"name": sub} if isinstance(sub, str) else table(where, f"{item}.sub_types", sub or {}) for sub in subs]
    for sub in named:
        known(where, f"{item}.sub_types", sub, SUB)
        if not str(sub.get("name")).isidentifier():
            raise wrong(where, f"{item}.sub_types.name", sub.get("name"), "a name of letters, digits and _")
        if sub.get("goal") and not scripted.limit(sub):
            told.note(
                item, f"the goal of {sub['name']} is relative to the input model, and no gate: a threshold is one"
            )
    own(item, named[0]["name"], config)
    limits = {gate: value for sub in named for gate, value in scripted.limit(sub).items()}
    return {"check.limits": out.get("check.limits", {}) | limits} if limits else {}


def settings(
    where: str, evaluator: Mapping[str, Any], text: Callable[..., tuple[str | None, Settings]], own: Own, told: Told
) -> Settings:
    """Of [check] and [bench]; `own` is told of each metric that a script evaluates. Raises TargetError, Refusal."""
    given = flat(evaluator, "type_args", where, "evaluators")
    known(where, "evaluators", given, {*KEYS, *MORE})
    if given.get("user_script") or given.get("script_dir"):
        raise Refusal(
            "evaluators: a script evaluates", "Use perplexity, or [check] of the target: KL divergence and top-1."
        )
    if given.get("tasks"):
        told.note("evaluators", "tasks of lm-eval are not run: doit check compares with the unquantised model")
    out: Settings = {}
    for number, entry in enumerate(entries(where, "evaluators.metrics", given.get("metrics"))):
        item = f"evaluators.metrics[{number}]"
        metric = table(where, item, entry)
        known(where, item, metric, METRIC)
        kind = metric.get("type")
        if kind not in TYPES:
            raise TargetError(
                f"{where}: {item}.type = {kind!r} is none that Olive has.", "A typing error.", nearest(str(kind), TYPES)
            )
        config = table(where, f"{item}.user_config", metric.get("user_config") or {})
        if kind == "custom" or config.get("evaluate_func"):
            out |= _scripted(where, item, metric, config, own, out, told)
            continue
        if kind == "accuracy" and isinstance(metric.get("data_config"), str):
            file, _ = text(metric["data_config"], end=".txt")
            out |= {"check.text": file} if file else {}
        single = filter(None, [metric.get("sub_type")])  # of older workflows
        for sub in entries(where, f"{item}.sub_types", metric.get("sub_types")) or single:
            sub = {"name": sub} if isinstance(sub, str) else table(where, f"{item}.sub_types", sub)
            known(where, f"{item}.sub_types", sub, SUB)
            repeats = table(where, f"{item}.metric_config", sub.get("metric_config") or {}).get("repeat_test_num")
            out |= {"bench.repeats": repeats} if repeats else {}
            out |= _gate(where, item, kind, sub, lambda line, item=item: told.note(item, line))  # type: ignore[misc]
    return out


def search(
    where: str, given: Mapping[str, Any], evaluator: Mapping[str, Any], axes: Mapping[str, list], told: Told
) -> Settings:
    """[search] over what the passes leave open; empty where that is nothing. Raises TargetError."""
    strategy = dict(given)
    for nested in ("sampler_config", "search_algorithm_config"):
        strategy = flat(strategy, nested, where, "search_strategy")
    known(where, "search_strategy", strategy, STRATEGY)
    if given and not evaluator:
        raise TargetError(
            f"{where}: search_strategy without an evaluator.",
            "Olive would not know what to look for.",
            "Name one of evaluators as evaluator.",
        )
    if not axes:
        told.note("search_strategy", "no option of the passes is left open: there is nothing to search")
        return {}
    trials = strategy.get("max_samples") or strategy.get("num_samples") or strategy.get("max_iter") or TRIALS
    if type(trials) is not int:
        raise wrong(where, "search_strategy: the number of samples", trials, "a whole number")
    told.note("search_strategy", "the search looks for little KL divergence and size; doit bench measures speed")
    return {
        "search.trials": trials,
        "search.seed": strategy.get("seed", 0),
        **{f"search.{label}": values for label, values in axes.items()},
    }
