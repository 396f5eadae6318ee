"""A workflow to the table that a target file has."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.olive import data, measures, model, one, order, scripted, strategy, system, workflow
from onnxmake.olive.rules import Place, Settings
from onnxmake.olive.scripted import Scripts
from onnxmake.olive.told import Refusal, Told, Untranslated
from onnxmake.olive.workflow import Workflow

GENERATES = {"modelbuilder", "genaimodelexporter"}  # what packs a model to generate text, whatever its task


@dataclass(frozen=True)
class Translated:
    """The table; `told` is what will differ. `repo` and `revision` as the workflow names them, where they are the hub's."""

    workflow: Workflow
    table: dict[str, Any]
    told: Told
    name: str
    revision: str | None


def _nested(settings: Settings, key: str) -> dict[str, Any]:
    """check.text -> { text }, search.pass.option -> { pass: { option } }."""
    out: dict[str, Any] = {}
    for label, value in settings.items():
        first, *rest = label.split(".")
        if first == key:
            inner = out.setdefault(rest[0], {}) if len(rest) > 1 else out
            inner[rest[-1]] = value
    return out


def _refuse_shapes(flow: Workflow, told: Told) -> None:
    """What is no target, whatever its passes are."""
    if flow.apart:
        told.refuse("builds", Refusal("parts of a model are built apart", "Leave builds out: one graph is built."))
    if not flow.passes:
        does = "the workflow evaluates a model" if flow.evaluator else "Olive would choose them"
        told.refuse("passes", Refusal(f"there are none: {does}", "Write passes, or let doit new choose."))
    if flow.flows > 1:
        first = ", ".join(several[0].item.removeprefix("passes.").split("[")[0] for several in flow.passes)
        told.note("pass_flows", f"of {flow.flows}, the first: {first}")


def translate(file: Path) -> Translated:
    """The workflow's table, all but [source]. Raises TargetError: what is wrong, or all that has no counterpart."""
    flow, where, told = workflow.read(file), paths.shown(file), Told()
    name, revision, device = "", None, "cpu"
    found: list[tuple[Settings, one.Open]] = [({}, {})]
    try:
        name, revision, task = model.repository(where, flow.model, told)
        found = [(task, {})]
    except Refusal as refusal:
        told.refuse("input_model", refusal)
    try:
        device = system.device_of(where, flow.system, told)
    except Refusal as refusal:
        told.refuse("systems", refusal)
    _refuse_shapes(flow, told)
    beside = {each.type.lower() for several in flow.passes for each in several}
    generates, loaded = "package_genai" in found[0][0] or bool(beside & GENERATES), found[0][0].get("load.dtype", "")
    mine = Scripts(where, file.parent, name)
    from_config = functools.partial(scripted.from_config, mine, generates)
    text = functools.partial(data.text_of, where, file.parent, flow.data, told=told, made=from_config)
    for several in flow.passes:
        item = several[0].item
        from_pass = functools.partial(scripted.from_pass, mine, item)
        place = Place(item, device, told, generates, text, from_pass, beside, loaded)
        try:
            found.append(one.settings(where, several, strategy.searched(flow.search), place))
        except Refusal as refusal:
            told.refuse(item, refusal)
    searched, blocks = {}, []
    measured = measures.settings(where, flow.evaluator, text, functools.partial(scripted.metric, mine), told)
    metrics = measured.pop("metric", [])
    try:
        if not told.refused:
            blocks = order.ordered([settings for settings, _ in found], told)
        if flow.search is not None and not told.refused:
            open_ = order.axes(found, blocks)
            searched = strategy.search(where, flow.search, flow.evaluator, open_, flow.passes, told)
    except Refusal as refusal:
        told.refuse("workflow", refusal)
    if told.refused:
        raise Untranslated(where, told.refused)
    blocks = [*(("run_script", options) for options in mine.made.values()), *blocks]
    allowed = {"allow_scripts": True} if mine.made or metrics else {}
    table: dict[str, Any] = {"device": device, **allowed, "pass": [{"use": use, **options} for use, options in blocks]}
    tables = {"check": measured, "bench": measured, "search": searched}
    return Translated(
        flow,
        table
        | ({"metric": metrics} if metrics else {})
        | {key: nested for key, given in tables.items() if (nested := _nested(given, key))},
        told,
        name,
        revision,
    )
