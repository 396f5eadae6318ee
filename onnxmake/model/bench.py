"""Measure a built model through ONNX Runtime GenAI, or by itself if it generates no text: load, prefill, decode, memory.

Seconds, tokens a second, bytes.
"""

import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxmake.errors import UnsupportedError
from onnxmake.model import latency, machine, plugin, session
from onnxmake.model.memory import peak_bytes
from onnxmake.model.serve import serve

GENAI = "genai_config.json"


def _percentiles(values: list[float], best_is_high: bool) -> dict[str, float]:
    """p50, and p90: what nine of ten runs reach or better."""
    ordered = sorted(values, reverse=best_is_high)
    return {"p50": statistics.median(values), "p90": ordered[max(0, -(-9 * len(ordered) // 10) - 1)]}


def generation(og, model, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """(seconds to the first token, seconds for each further one) of one greedy generation that does not stop early."""
    params = og.GeneratorParams(model)
    length = len(prompt) + new_tokens
    params.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = og.Generator(model, params)
    started = time.perf_counter()
    generator.append_tokens(prompt)
    generator.generate_next_token()
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        generator.generate_next_token()
    return first - started, (time.perf_counter() - first) / max(new_tokens - 1, 1)


def load(folder: str, device: str, overlay: str = "{}") -> Any:
    """The model on `device`, as GenAI names it ("CPU", "CUDA", "DirectML", "WebGPU"), its configuration changed by the JSON `overlay`. Raises UnsupportedError where it is not there."""
    session.preload(device)
    import onnxruntime_genai as og

    plugin.register(og, device)
    config = og.Config(folder)
    config.overlay(overlay)
    if device == "CPU":
        config.clear_providers()
    try:
        model = og.Model(config)
    except (RuntimeError, OSError) as error:
        raise UnsupportedError(
            f"The model does not load on {device}: {str(error).splitlines()[0]}",
            "This machine lacks the device or its driver, or the runtime an op of the model.",
            "Run it where the device is: `doit bundle:NAME` packs all that it takes.",
        ) from error
    if model.device_type != device:
        raise UnsupportedError(
            f"The model was loaded on {model.device_type}, not on {device}.",
            "The runtime of this environment does not know the device.",
            "Install the environment of the target's device.",
        )
    return model


def _generating(
    folder: str, device: str, prompt_tokens: Sequence[int], new_tokens: int, repeats: int
) -> tuple[float, list[dict]]:
    """Seconds to load, and the figures of greedy runs for each prompt length."""
    vocabulary = json.loads(Path(folder, GENAI).read_text())["model"]["vocab_size"]
    started = time.perf_counter()
    model = load(folder, device)
    loaded = time.perf_counter() - started
    import onnxruntime_genai as og

    runs = []
    for count in prompt_tokens:
        prompt = random.Random(0).choices(range(vocabulary), k=count)
        generation(og, model, prompt, min(new_tokens, 8))  # warm-up
        timed = [generation(og, model, prompt, new_tokens) for _ in range(repeats)]
        runs.append(_figures(count, [f for f, _ in timed]) | {"decode": _percentiles([1 / d for _, d in timed], True)})
    return loaded, runs


def _figures(count: int, seconds: list[float]) -> dict[str, Any]:
    """Of the seconds to the first result for `count` tokens."""
    return {
        "prompt_tokens": count,
        "first_token_s": _percentiles(seconds, False),
        "prefill": _percentiles([count / s for s in seconds], True),
    }


def bench(folder: str, device: str, prompt_tokens: Sequence[int], new_tokens: int, repeats: int) -> dict:
    """What `doit bench` records of a model in `folder`: medians over `repeats` runs for each prompt length."""
    where = machine.describe(device)
    if Path(folder, GENAI).exists():
        loaded, runs = _generating(folder, device, prompt_tokens, new_tokens, repeats)
    else:
        loaded, timed = latency.runs(folder, device, prompt_tokens, repeats)
        runs = [_figures(count, seconds) | {"decode": None} for count, seconds in timed]
    return {
        "device": device,
        "machine": where,
        "settings": {"prompt_tokens": list(prompt_tokens), "new_tokens": new_tokens, "repeats": repeats},
        "load_s": loaded,
        "runs": runs,
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    serve(lambda action: bench(**action))
