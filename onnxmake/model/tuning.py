"""Which session options run a packaged model fastest on this machine: combinations in alternating rounds, medians."""

import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from onnxmake.errors import PassError, TargetError
from onnxmake.model import bench, latency, machine, session

LEVELS = {"disabled": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": None}
# option of the pass -> the session's name of it, and its value; None: as the runtime has it
SETTINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "threads": ("intra_op_num_threads", lambda count: count or None),
    "spinning": ("session.intra_op.allow_spinning", lambda on: None if on else "0"),
    "arena": ("enable_cpu_mem_arena", lambda on: None if on else False),
    "prepacking": ("session.disable_prepacking", lambda on: None if on else "1"),
    "level": ("graph_optimization_level", LEVELS.__getitem__),
    "execution": ("execution_mode", lambda mode: "ORT_PARALLEL" if mode == "parallel" else None),
    "inter_threads": ("inter_op_num_threads", lambda count: count or None),
}
Settings = dict[str, Any]


def tried(options: Mapping[str, Sequence]) -> list[Settings]:
    """All combinations of what the pass's options list, the runtime's own first, as a session names them."""
    cores = machine.describe("CPU")["cores"]
    listed = {name: options[name] for name in SETTINGS}
    listed["threads"] = listed["threads"] or sorted({1, max(1, cores // 2), cores})
    found: list[Settings] = [{}]
    for values in product(*listed.values()):
        known = ((SETTINGS[name][0], SETTINGS[name][1](value)) for name, value in zip(listed, values))
        settings = {name: value for name, value in known if value is not None}
        if settings not in found:
            found.append(settings)
    return found


def _overlay(settings: Settings) -> dict[str, Any]:
    return {"model": {"decoder": {"session_options": settings}}}


def _generate(folder: Path, settings: Settings, prompt_tokens: int, new_tokens: int) -> float:
    """Seconds of a prompt and of what follows it."""
    import onnxruntime_genai as og

    model = bench.load(str(folder), "CPU", json.dumps(_overlay(settings)))
    vocabulary = json.loads((folder / bench.GENAI).read_text("utf-8"))["model"]["vocab_size"]
    prompt = random.Random(0).choices(range(vocabulary), k=prompt_tokens)
    bench.generation(og, model, prompt, min(new_tokens, 8))  # warms up
    first, each = bench.generation(og, model, prompt, new_tokens)
    return first + each * (new_tokens - 1)


def _run(folder: Path, settings: Settings, prompt_tokens: int, new_tokens: int) -> float:
    """Seconds of one input."""
    opened = session.open_session(folder / "model.onnx", settings=settings)
    feed = latency.inputs(opened, prompt_tokens, latency.setting(str(folder), "vocab_size", 1000))
    opened.run(None, feed)  # warms up
    started = time.perf_counter()
    opened.run(None, feed)
    return time.perf_counter() - started


def chosen(times: Sequence[Sequence[float]], gain: float) -> int:
    """The place of the least median, if it is less than the first by `gain`, and else 0."""
    medians = [statistics.median(seconds) for seconds in times]
    best = min(range(len(medians)), key=medians.__getitem__)
    return best if medians[best] < medians[0] * (1 - gain) else 0


def tune(
    folder: Path, combinations: Sequence[Settings], prompt_tokens: int, new_tokens: int, rounds: int, gain: float
) -> Settings:
    """The fastest of the combinations for the model in `folder`. One session is open at a time.

    Raises PassError where no model is packaged, TargetError for operators in parallel where GenAI runs it.
    """
    if not (folder / "model.onnx").exists() or not {"genai_config.json", "config.json"} & {
        p.name for p in folder.iterdir()
    }:
        raise PassError(
            "tune_session came before the model was packaged.",
            "It runs what is shipped.",
            "Move tune_session to the end, behind package_onnx or package_genai.",
        )
    generates = (folder / bench.GENAI).exists()
    if generates and any("execution_mode" in settings for settings in combinations):
        raise TargetError(
            'execution = "parallel" under tune_session is for models that ONNX Runtime runs by itself.',
            "GenAI has operators run one after the other.",
            'Write execution = ["sequential"].',
        )
    measure = _generate if generates else _run
    times: list[list[float]] = [[] for _ in combinations]
    for number in range(rounds):
        for place in sorted(range(len(combinations)), reverse=bool(number % 2)):
            times[place].append(measure(folder, combinations[place], prompt_tokens, new_tokens))
    for settings, seconds in zip(combinations, times):
        print(f"{statistics.median(seconds) * 1e3:10.2f} ms  {settings or 'as the runtime has it'}", flush=True)
    return combinations[chosen(times, gain)]


def record(folder: Path, settings: Settings) -> tuple[str, dict[str, Any]]:
    """The file that says the options, and what it holds."""
    file = folder / bench.GENAI
    if not file.exists():
        return session.FILE, settings
    config = json.loads(file.read_text("utf-8"))
    config["model"]["decoder"]["session_options"] |= settings
    return bench.GENAI, config
