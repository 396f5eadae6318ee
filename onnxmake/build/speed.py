"""Recorded benches compared: figures at a prompt that all have, of one machine."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from onnxmake.build import results
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed


def shared_prompt(found: Collection[Mapping[str, Any]]) -> int | None:
    """The longest prompt that all the results have."""
    lengths = [{run["prompt_tokens"] for run in result["runs"]} for result in found]
    return max(set.intersection(*lengths), default=None) if lengths else None


def at(result: Mapping[str, Any], prompt: int) -> Mapping[str, Any]:
    """A result's run at a prompt."""
    return next(run for run in result["runs"] if run["prompt_tokens"] == prompt)


def _measured(target: Target) -> Mapping[str, Any]:
    """The bench of what is in dist/<target>. Raises CheckFailed."""
    built = results.delivered(target)
    result = results.of(target, built["files"]) if built else None
    if result is None:
        raise CheckFailed(
            f"min_decode: {target.name} as it is built was not measured on {target.device}.",
            "It was never measured, or built anew since.",
            f"doit bench:{target.name}",
        )
    return result


def ratio(target: Target, than: str) -> float:
    """Decode tokens a second as a multiple of what the target `than` reaches on the same device of the same machine, medians at
    the longest prompt that both have. Raises CheckFailed where one is not measured so."""
    both = [_measured(target), _measured(dataclasses.replace(target, name=than))]
    prompt = shared_prompt(both)
    if prompt is None or both[0]["machine"] != both[1]["machine"]:
        raise CheckFailed(
            f"min_decode: {target.name} and {than} were not measured alike.",
            "They ran on different machines, or share no length of prompt.",
            f"Measure both again in one place: doit bench:{target.name} bench:{than}",
        )
    decode = [at(result, prompt)["decode"] for result in both]
    if None in decode:
        raise CheckFailed(
            f"min_decode: {target.name} or {than} has no decode speed.",
            "It generates no text.",
            "Leave min_decode out of [check].",
        )
    return decode[0]["p50"] / decode[1]["p50"]
