"""`doit coverage`: which workflows of a folder translate, and why the others do not."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build.commands import Command
from onnxmake.build.files import write_atomically
from onnxmake.build.report import say
from onnxmake.build.target import read_target
from onnxmake.errors import TargetError
from onnxmake.olive import hub, jsonc, workflow
from onnxmake.olive.system import provider_of
from onnxmake.olive.told import Untranslated
from onnxmake.olive.translate import translate

NO_COMMIT = "0" * 40
UNREAD = "not read"


@dataclass(frozen=True)
class Found:
    """A workflow: what it is for, the types of its passes, and why it does not translate; empty where it does."""

    file: str
    device: str  # or an execution provider, as it names them
    passes: tuple[str, ...]
    reasons: tuple[str, ...]


def is_workflow(given: Mapping[str, Any]) -> bool:
    return "input_model" in given and isinstance(given.get("passes", {}), dict)


def _types(given: Mapping[str, Any]) -> tuple[str, ...]:
    entries = [one for e in given.get("passes", {}).values() for one in (e if isinstance(e, list) else [e])]
    return tuple(str(one["type"]) for one in entries if isinstance(one, dict) and "type" in one)


def look(file: Path, name: str) -> Found | None:
    """None where the file is no workflow."""
    try:
        given = jsonc.read(file)
    except TargetError:
        return None
    if not is_workflow(given):
        return None
    reasons: tuple[str, ...] = ()
    device = UNREAD
    try:
        device = provider_of(workflow.read(file).system)
        found = translate(file)
        table = hub.settled(found.table, lambda _: f"hf://datasets/owner/name@{NO_COMMIT}/file.parquet")
        table |= {"source": {"repo": "owner/name", "revision": NO_COMMIT}}
        read_target(file, {}, lambda _: ("", table))
    except Untranslated as error:
        reasons = tuple(dict.fromkeys(f"{_general(item)}: {refusal.why}" for item, refusal in error.refused))
    except TargetError as error:
        reasons = (error.fact.removeprefix(f"{file}: "),)
    return Found(name, device, _types(given), reasons)


def _general(item: str) -> str:
    """passes.conversion[1].target_opset -> target_opset: the reason, not the place."""
    return re.sub(r"\[\d+\]", "", item).split(".")[-1] if item.count(".") > 1 else item.split(".")[0]


def report(found: Sequence[Found]) -> dict[str, Any]:
    """Counts: workflows, devices and passes with how many of their workflows translate, reasons."""
    right = [one for one in found if not one.reasons]
    reasons = Counter(reason for one in found for reason in one.reasons)
    return {
        "workflows": len(found),
        "translated": len(right),
        "devices": _counted([{one.device} for one in found], [{one.device} for one in right]),
        "passes": _counted([{*one.passes} for one in found], [{*one.passes} for one in right]),
        "reasons": dict(reasons.most_common()),
        "files": {one.file: list(one.reasons) for one in found},
    }


def _counted(found: Sequence[set[str]], right: Sequence[set[str]]) -> dict[str, dict[str, int]]:
    """Name -> in how many of the workflows it is, and in how many of those that translate; the most frequent first."""
    good = Counter(name for names in right for name in names)
    names = Counter(name for names in found for name in sorted(names))
    return {name: {"workflows": count, "translated": good[name]} for name, count in names.most_common()}


def markdown(counts: Mapping[str, Any]) -> str:
    from tabulate import tabulate

    share = f"{counts['translated']} of {counts['workflows']} workflows translate."
    tables = []
    for head, group in (("device", "devices"), ("pass", "passes")):
        rows = [[name, one["workflows"], one["translated"]] for name, one in counts[group].items()]
        tables += [tabulate(rows, [head, "workflows", "of which translate"], "github")] if rows else []
    reasons = [[reason.replace("|", "\\|"), count] for reason, count in counts["reasons"].items()]
    return "\n\n".join([share, *tables, *([tabulate(reasons, ["reason", "workflows"], "github")] if reasons else [])])


class Coverage(Command):
    """Walk a folder for workflows of Olive, and say how many translate, by device, pass and reason."""

    doc_purpose = "say which Olive workflows of a folder translate"
    doc_usage = "-d FOLDER"
    cmd_options = (
        {"name": "folder", "short": "d", "long": "folder", "default": "", "help": "where workflows are, at any depth"},
        {
            "name": "json",
            "long": "json",
            "default": "",
            "help": "a file to write the counts and each file's reasons to",
        },
    )

    def get_options(self):
        """Without doit's own -d, the folder of dodo.py."""
        return [option for option in super().get_options() if option.name != "cwdPath"]

    def work(self, plan, params, arguments):
        folder = Path(params["folder"] or ".").resolve()
        if not params["folder"] or arguments or not folder.is_dir():
            raise TargetError(
                "doit coverage takes a folder.",
                f"{params['folder'] or 'None'} is no folder.",
                "doit coverage -d FOLDER",
            )
        looked = (look(file, file.relative_to(folder).as_posix()) for file in sorted(folder.rglob("*.json")))
        counts = report([one for one in looked if one])
        say(markdown(counts))
        if params["json"]:
            write_atomically(Path(params["json"]), json.dumps(counts, indent=2) + "\n")
