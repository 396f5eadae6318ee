"""The front matter of a model card, as the hub reads it: https://huggingface.co/docs/hub/model-cards."""

import json
from collections.abc import Iterator
from typing import Any

from onnxmake.build import gates, quality
from onnxmake.release.facts import Facts
from onnxmake.release.part import Part


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML


def _results(facts: Facts, part: Part) -> dict[str, Any]:
    """What was found of a part, as an entry of a model index."""
    text = part.quality["text"]
    named = text if text.startswith("hf://") else f"a text, sha256 {text}"
    metrics = [
        {"type": name, "name": gates.METRICS[name][0], "value": value}
        for name, value in part.quality["metrics"].items()
        if name in gates.METRICS
    ]
    return {
        "task": {"type": facts.task, "name": part.name},
        "dataset": {"type": "text", "name": named},
        "metrics": metrics,
    }


def _relation(passes: set[str]) -> str:
    """What the model is to the checkpoint, in the hub's word; "" for neither tuned nor quantised."""
    if passes & {*quality.TUNED}:
        return "finetune"
    return "quantized" if any(name.startswith("quantize_") or name == "repack" for name in passes) else ""


def front(facts: Facts) -> Iterator[str]:
    """Its lines."""
    yield "---"
    yield from (f"{key}: {_yaml(value)}" for key, value in facts.licence.items())
    if facts.repo:
        yield f"base_model: {_yaml(facts.repo)}"
        if relation := _relation({step["pass"] for part in facts.parts for step in part.steps}):
            yield f"base_model_relation: {relation}"
    yield "library_name: onnx"
    yield f"pipeline_tag: {facts.task}"
    tags = ["onnx", "onnxruntime-genai" if facts.generates else "onnxruntime", *(p.device for p in facts.parts)]
    yield f"tags: {_yaml(tags)}"
    if found := [_results(facts, part) for part in facts.parts if part.quality]:
        yield f"model-index: {_yaml([{'name': facts.name, 'results': found}])}"
    yield "---"
