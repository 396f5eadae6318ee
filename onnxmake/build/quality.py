"""What is known of a built target's quality, of which bytes and how it was found: build/quality/<target>.json, and in its manifest.

An answer counts for the files, text, settings and code that it was found with; whatever of them changes, it is asked anew.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import closure, fetch, gates, measurements, paths, plan, results, speed, store
from onnxmake.build.digest import digest_file
from onnxmake.build.files import canonical_json, digest_text, read_record, write_record
from onnxmake.build.key import digest as digest_of
from onnxmake.build.key import known
from onnxmake.build.settings import setting
from onnxmake.build.target import Target
from onnxmake.errors import OnnxmakeError, TargetError

TUNED = ("finetune", "import_adapter")  # passes that say which weights the model has
TUNING = ("run_script", *TUNED)  # those on the checkpoint: what they make is data, too
SEMANTIC = (*TUNING, "export", "pool")  # those that say what a model computes; those behind them say how
UNTWINNED = (*TUNING, "attach_adapters")  # those that hold the checkpoint's own widths: a twin does without them
HELDOUT = paths.TARGETS / "tiny" / "heldout.txt"
TABLES = "onnxmake.model.lowering"  # loaded by name
EVALUATION = ("onnxmake.model.evaluate",)
TWIN = ("onnxmake.model.sweep", "onnxmake.model.regroup", "onnxmake.model.parity", f"{TABLES}.portable")


def _path(target: Target) -> Path:
    return paths.BUILD / "quality" / f"{target.name}.json"


def _record(target: Target) -> Mapping[str, Any]:
    """ "twin" and "evaluation", each with its key, as far as they were answered."""
    return read_record(_path(target)) or {}


def text_of(target: Target) -> Path:
    """The text, or rows, that the target is evaluated on, fetched if it is the hub's. Raises TargetError, SourceError."""
    named = target.check.text
    if target.check.on_hub:
        return fetch.fetch_data(named, target.check.text_template)
    if target.check.made:
        return _made(target, target.check.made)
    file = HELDOUT if named is None else target.file.parent / named
    if not file.is_file():
        raise TargetError(
            f"{paths.shown(target.file)}: text = {named!r} under [check] is no file.",
            "It is looked for beside the target file.",
            "Correct the path; without it, the embedded held-out text is taken.",
        )
    return file


def _made(target: Target, name: str) -> Path:
    """The file that a script of the target's has made, under its name. Raises StoreError where that step is not done, ObjectLost where its
    file is gone."""
    steps = plan.steps_of(target, plan.checkpoint_of(target, setting("source")))
    (entry,) = (s.record["files"][name] for s in steps if getattr(s.use.options, "output", None) == name)
    place = paths.BUILD / "data" / entry[0][:16] / name
    if not place.is_file():
        store.lay_out({name: entry}, place.parent, link=True)
    return place


def text_key(target: Target) -> str:
    """What stands for the text's content: a commit's file never changes. Raises TargetError, StoreError."""
    return str(target.check.text) if target.check.on_hub else digest_file(text_of(target))


def text_name(target: Target) -> str:
    """The text as a person knows it."""
    named = target.check.on_hub or target.check.made
    return str(target.check.text) if named else paths.shown(text_of(target))


def semantic(names: Iterable[str]) -> int:
    """How many of the passes come first that say what the model computes; the graph behind them is the unquantised one."""
    found = list(names)
    return next((i for i, name in enumerate(found) if name not in SEMANTIC), len(found))


def unpackaged(names: Iterable[str]) -> int:
    """How many of the passes come before those that lay out files: a twin goes through them."""
    found = list(names)
    return next((i for i, name in enumerate(found) if name.startswith("package_")), len(found))


def _code(modules: Iterable[str], *environments: str) -> str:
    locks = [digest_file(paths.CONTAINERS / name / "requirements.lock") for name in environments]
    return digest_text(canonical_json([closure.digests_of(modules), locks]))


def evaluation_key(target: Target, built: Mapping[str, Any]) -> dict[str, Any]:
    """All that figures of a built target, as its manifest describes it, depend on. Raises TargetError."""
    steps = built["steps"]
    return {
        "files": built["files"],
        "reference": [steps[semantic(s["pass"] for s in steps) - 1]["key"], steps[-1]["key"]],  # graph and weights
        "text": text_key(target),
        "settings": target.check.settings,
        "code": _code(EVALUATION, "cpu"),
    }


def twin_key(target: Target, built: Mapping[str, Any]) -> dict[str, Any]:
    """All that the comparison of a twin depends on: architecture and options are in the keys of the graph's steps."""
    steps = built["steps"]
    keys = [s["key"] for s in steps[: unpackaged(s["pass"] for s in steps)] if s["pass"] not in UNTWINNED]
    return {"steps": keys, "code": _code([*TWIN, f"{TABLES}.{target.device}"], "torch", "cpu")}


def scripts_key(target: Target, built: Mapping[str, Any]) -> dict[str, Any]:
    """All that figures of scripts depend on: files, the checkpoint by the steps' keys, and the scripts with what goes with them."""
    found = [digest_of(known(plan.Step(use, plan.checkpoint_of(target), None))) for use in target.metrics]
    return {"files": built["files"], "steps": [step["key"] for step in built["steps"]], "scripts": found}


def answer(target: Target, question: str, key: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was found for exactly this key. `question`: twin, evaluation or scripts."""
    found = _record(target).get(question)
    return found if found and found["key"] == key else None


def note(target: Target, question: str, key: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Keep an answer, also in dist/<target>/manifest.json; figures in the target's history."""
    if question == "evaluation":
        measurements.note_evaluation(target.name, key, found)
    write_record(_path(target), {**_record(target), question: {"key": key, **found}})
    results.amend(target, quality=summary(target, results.delivered(target)["files"]))


def summary(target: Target, files: Mapping[str, list]) -> dict[str, Any] | None:
    """What the manifest of exactly these files says of them; None where they were not evaluated."""
    found = _record(target).get("evaluation")
    if not found or found["key"]["files"] != files:
        return None
    return {name: found["key"][name] for name in ("text", "settings")} | {
        name: found[name] for name in ("metrics", "counted", "of")
    }


def metrics(target: Target, built: Mapping[str, Any]) -> dict[str, float]:
    """All that gates can limit, but decode speed: figures found with today's text, settings and code, and the size in MB."""
    found = answer(target, "evaluation", evaluation_key(target, built))
    size = sum(size for _, size in built["files"].values()) / 1e6
    own = answer(target, "scripts", scripts_key(target, built)) if target.metrics else None
    return {name: value for one in (found, own) if one for name, value in one["metrics"].items()} | {"size_mb": size}


def lacking(target: Target) -> str:
    """Why what is in dist/<target> has not passed its check; empty if it has. It is found out from records alone."""
    check, built = f"doit check:{target.name}", results.delivered(target)
    folder = paths.DIST / target.name
    try:
        if built is None or any(digest_file(folder / name) != sha for name, (sha, _) in built["files"].items()):
            return f"{target.name} is not built, or dist holds other files: doit build:{target.name}"
        if answer(target, "twin", twin_key(target, built)) is None:
            return f"no twin of {target.name} was compared as it is built: {check}"
        if answer(target, "evaluation", evaluation_key(target, built)) is None:
            return f"{target.name} was not evaluated as it is built: {check}"
        if target.metrics and answer(target, "scripts", scripts_key(target, built)) is None:
            return f"no script has evaluated {target.name} as it is built: {check}"
        known = metrics(target, built)
        if target.check.than:
            known["decode"] = speed.ratio(target, target.check.than)
    except (OnnxmakeError, OSError) as error:
        return str(error)
    wrong = [*gates.missed(target.check, known), *gates.absent(target.check, known)]
    return f"{target.name} does not keep {', '.join(wrong)}: {check}" if wrong else ""


def passed(target: Target) -> bool:
    """Whether exactly the bytes in dist/<target> were checked and keep every gate."""
    return not lacking(target)
