"""`doit new`: look at a model, decide how it is best built, and write that as a target, with the reasons."""

import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import draft, paths, sizes, support
from onnxmake.build.asked import understood
from onnxmake.build.commands import Command
from onnxmake.build.decide import ASKED, decide, table
from onnxmake.build.device import lacking
from onnxmake.build.files import storage_errors, write_atomically
from onnxmake.build.origin import Origin, origin
from onnxmake.build.plan import Plan
from onnxmake.build.report import say
from onnxmake.build.target import Target
from onnxmake.build.traits import shaping, traits
from onnxmake.errors import CheckFailed, TargetError, UnsupportedError


def _text(name: str, help: str, default: str = "", **more: str) -> dict[str, Any]:
    return {"name": name, "long": name.replace("_", "-"), "default": default, "help": help, **more}


def _flag(name: str, long: str, help: str) -> dict[str, Any]:
    return {"name": name, "long": long, "type": bool, "default": False, "help": help}


class New(Command):
    """Decides by onnxmake/build/decisions.toml, and prints each decision with its reason and what else could be chosen."""

    doc_purpose = "write a target for a model"
    doc_usage = "-m MODEL"
    cmd_options = (
        _text("model", "OWNER/NAME of the hub, OWNER/NAME@REVISION, or a folder", short="m"),
        _text("device", "where it will run: cpu, cuda, directml, webgpu", "cpu"),
        _text(
            "precision",
            "of weights: fp32, fp16, bf16, int8, mixed (of 4 and 8 bits), int4; unless it is given, the device's and the model's best",
            short="p",
        ),
        _text(
            "max_size_mb", "the largest size of all files, in MB of 10^6 bytes: the best precision that it has room for"
        ),
        _text("method", "of quantisation: rtn, kquant, hqq, gptq, awq"),
        _text("block_size", "values that share a scale: 16, 32, 64, 128, 256"),
        _text("part", "of a model of text and pictures: text, vision"),
        _text("name", "of the target; MODEL-PRECISION-DEVICE unless it is given"),
        _flag("dry_run", "dry-run", "print the target file, and the decisions on standard error; write nothing"),
        _flag("build", "build", "build, check and measure it, too"),
        _flag("force", "force", "replace a target of that name"),
        _flag("unproven", "unproven", "also of an architecture that no sweep has found right"),
    )

    def work(self, plan: Plan, params: Mapping[str, Any], arguments: list[str]) -> None:
        """Raises TargetError, SourceError, CheckpointError, UnsupportedError, CheckFailed."""
        device, budget = understood(params, arguments)
        asked = {name: params[name] for name in table()[ASKED]}
        found = origin(params["model"], shapes=budget > 0)
        facts = traits(found.folder, found.files, params["part"]) | {"model": found.name, "device": device}
        facts |= sizes.budgeted(found, facts, asked, budget) if budget else {}
        made = decide(facts, asked)
        made |= {"size": sizes.check(found, facts, asked, made)} if budget else {}
        name = params["name"] or _name(found, made["precision"].choice, device)
        file = _place(plan, name)
        text = draft.toml(facts, found.source(file.parent), made, params["unproven"])
        _proven(draft.read(file, text), shaping(found.folder), params["unproven"])
        if params["dry_run"]:
            sys.stderr.write(draft.reasons(made) + "\n")
            say(text.rstrip())
            return
        say(draft.reasons(made))
        write(file, text, params["force"], {*plan.releases, *plan.broken}, "Give --name for a second one")
        if params["build"]:
            _build(name, device, made["tasks"].choice)


def _name(found: Origin, precision: str, device: str) -> str:
    model = re.sub(r"[^a-z0-9._-]+", "-", found.name.rsplit("/", 1)[-1].lower()).strip("-.") or "model"
    return f"{model}-{precision}-{device}"


def _place(plan: Plan, name: str) -> Path:
    """The file of the target: where one of that name is, or in the first folder of ONNXMAKE_TARGETS, or targets/."""
    if name in plan.targets:
        return plan.targets[name][0].file.with_suffix(".toml")  # which wins over a workflow of that name
    return [*paths.target_folders()[1:], paths.TARGETS][0] / f"{name}.toml"


def _proven(target: Target, architecture: Mapping[str, Any], unproven: bool) -> None:
    doubt = support.doubt(target, architecture)
    if doubt and not unproven:
        name, verdict = doubt
        raise UnsupportedError(
            f"{name} is not proven right on {target.device}.",
            f"{verdict}.",
            f"doit sweep:{name} tries it; --unproven writes a target that is built as it is.",
        )


def write(file: Path, text: str, force: bool, taken: Collection[str], second: str) -> None:
    """The target file, and say how it is built. Raises TargetError where another is there, or its name is among those that are
    taken; `second` says how to have both."""
    there = file.read_text("utf-8") if file.is_file() else ""
    if there == text:
        say(f"{paths.shown(file)} is so already")
        return
    if (there or file.stem in taken) and not force:
        raise TargetError(
            f"There is another target {file.stem}: {paths.shown(file)}.",
            "It was written by hand, of another commit, or with other options.",
            f"{second}, or --force to replace it.",
        )
    with storage_errors("write the target"):
        write_atomically(file, text)
    found = "" if file.parent in paths.target_folders() else f"ONNXMAKE_TARGETS={paths.shown(file.parent)} "
    say(f"{paths.shown(file)} written: {found}doit build:{file.stem}")


def _build(name: str, device: str, tasks: list[str]) -> None:
    """What a person would type next, with the settings of this command line. Raises CheckFailed."""
    if "bench" in tasks and (reason := lacking(device)):
        say(f"not measured on {device}: {reason}")
        tasks = [task for task in tasks if task != "bench"]
    settings = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    command = [*settings, *(f"{task}:{name}" for task in tasks)]
    say(f"doit {' '.join(command)}")
    if subprocess.run([sys.executable, "-m", "doit", *command], stdin=subprocess.DEVNULL).returncode:
        raise CheckFailed(
            f"{name} was written, and not all of {', '.join(tasks)} succeeded.",
            "What went wrong is said above.",
            f"doit {' '.join(command)} tries again: finished steps are kept.",
        )
