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


def _text(item: str, name: str, text: Callable[[str], tuple[Any, Settings]], told: Told) -> Settings:
    """What is evaluated on: a file or data set, where the data are one; no script is run for it. Raises TargetError."""
    try:
        file, taken = text(name)
    except Refusal as refusal:
        told.note(item, f"{refusal.why}: doit check reads the text that comes along instead")
        return {}
    read = {f"check.{option}": value for option, value in taken.items() if option == "text_template"}
    return {"check.text": file} | read if file else {}


def settings(
    where: str, evaluator: Mapping[str, Any], text: Callable[[str], tuple[Any, Settings]], told: Told
) -> Settings:
    """Of [check] and [bench]. Evaluating changes nothing of the model: scripts and tasks that are not run are noted. Raises TargetError."""
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
        if kind == "custom" or config.get("user_script"):
            told.note(item, SCRIPT)
        if kind == "accuracy" and isinstance(metric.get("data_config"), str):
            out |= _text(item, metric["data_config"], text, told)
        single = filter(None, [metric.get("sub_type")])  # of older workflows
        for sub in entries(where, f"{item}.sub_types", metric.get("sub_types")) or single:
            sub = {"name": sub} if isinstance(sub, str) else table(where, f"{item}.sub_types", sub)
            known(where, f"{item}.sub_types", sub, SUB)
            repeats = table(where, f"{item}.metric_config", sub.get("metric_config") or {}).get("repeat_test_num")
            out |= {"bench.repeats": repeats} if repeats else {}
            gate = _gate(where, item, kind, sub, lambda line, item=item: told.note(item, line))  # type: ignore[misc]
            out |= {label: _stricter(label, value, out.get(label, value)) for label, value in gate.items()}
    return out
