"""Run built models: generate text, and measure. Never from the store: a number is of this machine and this moment."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from onnxmake.build import budget, bundle, job, paths, remote, results, runner
from onnxmake.build.device import device, lacking
from onnxmake.build.target import Target
from onnxmake.errors import EnvironmentMissing

_asked: dict[str, Target] = {}  # what this run was to measure, and
_measured: set[str] = set()  # of what it has a result


def is_built(target: Target) -> bool:
    return results.delivered(target) is not None


def generate(target: Target, prompt: str, tokens: int, adapter: str = "") -> None:
    """Continue `prompt` greedily or as the model's own settings sample, with one of its adapters if it is named, printing text as it
    comes."""

    def echo(line: str) -> None:
        sys.stdout.write(json.loads(line)["text"] if line.startswith('{"text"') else "")
        sys.stdout.flush()

    _run(target, "generate", {"prompt": prompt, "tokens": tokens, "adapter": adapter}, "try", echo)
    print(flush=True)


def _need_device(target: Target) -> None:
    """Raises EnvironmentMissing where the target's device is not here."""
    if reason := lacking(target.device):
        raise EnvironmentMissing(
            f"{target.name} runs on {target.device}, and {reason}.",
            "It can be built on any machine, and run where the device is.",
            f"doit bundle:{target.name} packs what it takes; {target.device}_host=USER@HOST measures it there.",
        )


def _run(target: Target, module: str, action: Mapping[str, Any], task: str, echo=None) -> Any:
    """One of the step side's programs on the built model, in the device's own environment. Raises EnvironmentMissing."""
    _need_device(target)
    folder, kind = str(paths.DIST / target.name), device(target.device)
    log, label = paths.BUILD / "logs" / f"{task}-{target.name}.log", f"{task}:{target.name}"
    with budget.machine().take(0, kind.gpus) as gpus:
        program = job.module(f"onnxmake.model.{module}", target.device, read=[folder], gpus=tuple(gpus))
        return runner.run(program, {"folder": folder, "device": kind.provider, **action}, log, label, echo)


def bench(target: Target, alone: bool) -> None:
    """Measure a built target for the table. Raises as `measured` does."""
    _asked[target.name] = target
    if measured(target, alone):
        _measured.add(target.name)


def measured(target: Target, alone: bool) -> bool:
    """Measure a built target in a fresh process, here or on the device's host; or take over what its bundle brought back. Whether
    there is a result.

    `alone`: it was asked for by name, so that a device that is not here is an error. Raises EnvironmentMissing.
    """
    host, returned = remote.host(target.device), bundle.folder(target) / "result.json"
    if not lacking(target.device):
        found = _run(target, "bench", bundle.settings(target), "bench")
        files = results.delivered(target)["files"]
        results.save({"target": target.name, "files": files, **found})
    elif host:
        bundle.pack(target)
        results.merge(target, remote.run(host, bundle.folder(target)))
    elif returned.exists():
        results.merge(target, returned)
    elif results.of(target, results.delivered(target)["files"]) is None:
        if alone:
            _need_device(target)
        return False
    results.note(target)
    return True


def show() -> None:
    """The table of what this run was asked for. Once, though every task asks."""
    targets, measured = list(_asked.values()), set(_measured)
    _asked.clear()
    _measured.clear()
    if targets:
        results.table(targets, measured)
