"""`evaluators` as [check] and [bench]."""

from collections.abc import Callable, Mapping
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
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
FALLS = {"percent-max-degradation": 100.0, "max-degradation": 1.0}  # of a metric, by so much at most
Script = Callable[[str, str, Mapping[str, Any]], dict[str, Any]]  # place, name and user_config -> [[metric]]
EVALUATORS = ("LMEvaluator", "MTEBEvaluator")
SIZE = "size_on_disk"  # a task of LMEvaluator, too; doit check has the figure
COMPARED = "doit check compares with the unquantised model, by perplexity, KL divergence and top-1 agreement"
SCRIPT = f"its script is not run: {COMPARED}"


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


def _stricter(label: str, *values: float) -> float:
    return (min if ".max_" in label else max)(values)


def _scripted(
    where: str, item: str, subs: list[dict[str, Any]], config: Mapping[str, Any], script: Script, told: Told
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The [[metric]] of what a script evaluates, and its gates: goals that name a value. Where none is run, that is noted. Raises TargetError."""
    try:
        metric = script(item, subs[0].get("name"), config)
    except Refusal as refusal:
        told.note(item, f"{SCRIPT}; {refusal.why}. {refusal.closest.removesuffix('.')}")
        metric = None
    limits: dict[str, float] = {}
    for sub in subs:
        name, goal = sub.get("name"), table(where, f"{item}.goal", sub.get("goal") or {})
        if metric is not None and not (isinstance(name, str) and name.isascii() and name.isidentifier()):
            raise wrong(where, f"{item}.sub_types.name", name, "a name of letters, digits and _")
        if goal and type(goal.get("value")) not in (int, float):
            raise wrong(where, f"{item}.goal.value", goal.get("value"), "a number")
        if goal and metric is None:
            told.note(item, f"the goal of {name} is no gate, as its script is not run")
        elif goal.get("type") == "threshold":
            limits[f"{'max' if sub.get('higher_is_better') is False else 'min'}_{name}"] = float(goal["value"])
        elif goal:
            told.note(item, f"the goal of {name} is relative to the input model, and no gate: a threshold is one")
    return [metric] if metric is not None else [], limits


def _text(item: str, name: str, text: Callable[..., tuple[Any, Settings]], told: Told) -> Settings:
    """What is evaluated on: a file or data set, or what a script makes where it may run. Raises TargetError."""
    try:
        file, taken = text(name, end=".txt")
    except Refusal as refusal:
        told.note(item, f"{refusal.why}: doit check reads the text that comes along instead")
        return {}
    read = {f"check.{option}": value for option, value in taken.items() if option == "text_template"}
    return {"check.text": file} | read if file else {}


def settings(
    where: str, evaluator: Mapping[str, Any], text: Callable[..., tuple[Any, Settings]], script: Script, told: Told
) -> Settings:
    """Of [check] and [bench], and "metric": each [[metric]]. Evaluating changes nothing of the model: scripts and tasks that are not run
    are noted. Raises TargetError."""
    given = flat(evaluator, "type_args", where, "evaluators")
    known(where, "evaluators", given, {*KEYS, *MORE})
    if given.get("user_script"):
        told.note("evaluators", SCRIPT)
    elif given.get("type") is not None and given["type"] not in EVALUATORS:
        raise TargetError(
            f"{where}: evaluators: type = {given['type']!r} is none that Olive has.",
            "A typing error.",
            nearest(str(given["type"]), EVALUATORS),
        )
    if tasks := [str(task) for task in entries(where, "evaluators.tasks", given.get("tasks")) if task != SIZE]:
        told.note("evaluators", f"{', '.join(tasks)} {'is' if len(tasks) == 1 else 'are'} not run: {COMPARED}")
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
        subs = entries(where, f"{item}.sub_types", metric.get("sub_types")) or [*filter(None, [metric.get("sub_type")])]
        subs = [{"name": sub} if isinstance(sub, str) else table(where, f"{item}.sub_types", sub) for sub in subs]
        for sub in subs:
            known(where, f"{item}.sub_types", sub, SUB)
        if kind == "custom" or config.get("evaluate_func"):
            own, limits = _scripted(where, item, subs or [{"name": metric.get("name")}], config, script, told)
            out["metric"] = out.get("metric", []) + own
            out |= {"check.limits": out.get("check.limits", {}) | limits} if limits else {}
            continue
        if config.get("user_script"):
            told.note(item, SCRIPT)
        if kind == "accuracy" and isinstance(metric.get("data_config"), str):
            out |= _text(item, metric["data_config"], text, told)
        for sub in subs:
            repeats = table(where, f"{item}.metric_config", sub.get("metric_config") or {}).get("repeat_test_num")
            out |= {"bench.repeats": repeats} if repeats else {}
            gate = _gate(where, item, kind, sub, lambda line, item=item: told.note(item, line))  # type: ignore[misc]
            out |= {label: _stricter(label, value, out.get(label, value)) for label, value in gate.items()}
    return out
