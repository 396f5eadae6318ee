"""Measure a built model through ONNX Runtime GenAI: load, prefill, decode, memory. Seconds, tokens a second, bytes."""

import json
import random
import resource
import statistics
import sys
import time
from pathlib import Path

from onnxmake.model.serve import serve


def _percentiles(values: list[float], best_is_high: bool) -> dict[str, float]:
    """p50, and p90: what nine of ten runs reach or better."""
    ordered = sorted(values, reverse=best_is_high)
    return {"p50": statistics.median(values), "p90": ordered[max(0, -(-9 * len(ordered) // 10) - 1)]}


def _run(og, model, prompt: list[int], new_tokens: int) -> tuple[float, float]:
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


def bench(folder: str, prompt_tokens: list[int], new_tokens: int, repeats: int) -> dict:
    import onnxruntime_genai as og

    vocabulary = json.loads(Path(folder, "genai_config.json").read_text())["model"]["vocab_size"]
    started = time.perf_counter()
    model = og.Model(folder)
    load = time.perf_counter() - started
    runs = []
    for count in prompt_tokens:
        prompt = random.Random(0).choices(range(vocabulary), k=count)
        _run(og, model, prompt, min(new_tokens, 8))  # warm-up
        timed = [_run(og, model, prompt, new_tokens) for _ in range(repeats)]
        runs.append(
            {
                "prompt_tokens": count,
                "first_token_s": _percentiles([f for f, _ in timed], False),
                "prefill": _percentiles([count / f for f, _ in timed], True),
                "decode": _percentiles([1 / d for _, d in timed], True),
            }
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"load_s": load, "runs": runs, "peak_bytes": peak}


if __name__ == "__main__":
    serve(lambda a: bench(a["folder"], a["prompt_tokens"], a["new_tokens"], a["repeats"]))
