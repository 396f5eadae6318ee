"""A workflow to the table that a target file has."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.olive import data, measures, model, one, order, scripted, system, workflow
from onnxmake.olive.rules import Place, Settings
from onnxmake.olive.scripted import Scripted
from onnxmake.olive.told import Refusal, Told, Untranslated
from onnxmake.olive.workflow import Workflow


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


def translate(file: Path) -> Translated:
    """The workflow's table, all but [source]. Raises TargetError: what is wrong, or all that has no counterpart."""
    flow, where, told = workflow.read(file), paths.shown(file), Told()
    name, revision, device, open_ = "", None, "cpu", {}
    settings: list[Settings] = [{}]
    made: Scripted = {}
    try:
        name, revision, task = model.repository(where, flow.model, told)
        settings = [task]
    except Refusal as refusal:
        told.refused.append(("input_model", refusal))
    try:
        device = system.device_of(where, flow.system, told)
    except Refusal as refusal:
        told.refused.append(("systems", refusal))
    generates = "package_genai" in settings[0]
    from_config = functools.partial(scripted.from_config, made, where, file.parent, name, generates)
    text = functools.partial(data.text_of, where, file.parent, flow.data, told=told, made=from_config)
    if not flow.passes:
        told.refused.append(
            ("passes", Refusal("there are none: Olive would choose them", "Write passes, or let doit new choose."))
        )
    for several in flow.passes:
        item = several[0].item
        of_pass = functools.partial(scripted.from_pass, made, where, file.parent, name, item)
        place = Place(item, device, told, generates, text, of_pass)
        try:
            found, axes = one.settings(where, several, flow.search is not None, place)
            settings.append(found)
            open_.update(axes)
        except Refusal as refusal:
            told.refused.append((place.item, refusal))
    measured, searched, blocks = {}, {}, []
    metrics: list[dict[str, Any]] = []

    def own(item: str, figure: str, config: Mapping[str, Any]) -> None:
        try:
            metrics.append(scripted.metric(where, file.parent, name, item, figure, config))
        except Refusal as refusal:
            told.refused.append((item, refusal))

    try:
        measured = measures.settings(where, flow.evaluator, text, own, told)
        if not told.refused:
            blocks = order.ordered(settings)
        if flow.search is not None and not told.refused:
            searched = measures.search(where, flow.search, flow.evaluator, order.axes(open_, blocks), told)
    except Refusal as refusal:
        told.refused.append(("workflow", refusal))
    if told.refused:
        raise Untranslated(where, told.refused)
    blocks = [*(("run_script", options) for options in made.values()), *blocks]
    allowed = {"allow_scripts": True} if made or metrics else {}
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
