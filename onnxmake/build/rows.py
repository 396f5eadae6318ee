"""What is known of built targets that one can choose between: method, bits, size, quality, speed, as far as it is comparable."""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from onnxmake.build import history, quality, reproduced, results, speed, store
from onnxmake.build.files import canonical_json, read_json
from onnxmake.build.like import FILES
from onnxmake.build.plan import Step
from onnxmake.build.schema import plain
from onnxmake.build.target import Target
from onnxmake.errors import OnnxmakeError

WORDS = {
    "bits": "int{}",
    "dtype": "{}",
    "block_size": "b{}",
    "symmetric": "{}",
}  # options that need no name, in this order


@dataclasses.dataclass
class Row:
    """A built target. `values`: column -> number, of those that are known; `hints`: how to come to know the others."""

    target: str
    device: str
    method: str
    values: dict[str, float]
    hints: list[str]  # tasks of doit
    again: str = ""  # how a second build compares


def _options(given: dict[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The known ones in short; of the others, those that differ from their defaults."""
    shown = given | {"symmetric": "sym" if given["symmetric"] else "asym"} if "symmetric" in given else given
    first = [form.format(shown[name]) for name, form in WORDS.items() if name in shown]
    return first + [f"{k}={v}" for k, v in given.items() if k not in (*WORDS, *FILES) and v != plain(defaults.get(k))]


def method(target: Target, built: Mapping[str, Any]) -> str:
    """What the passes did to the weights, in short: "rtn int4 b32 asym lm_head=int8". fp32 where they did nothing."""
    defaults = {
        use.declaration.name: {f.name: f.default for f in dataclasses.fields(use.options)} for use in target.passes
    }
    words = []
    for step in built["steps"]:
        name = step["pass"]
        if name in (*quality.SEMANTIC, "optimize") or name.startswith("package_"):
            continue
        options = (store.document(step["key"]) or {"options": {}})["options"]
        told = _options(options, defaults.get(name, {}))
        words.append(" ".join([*([] if name == "cast" else [name.removeprefix("quantize_")]), *told]))
    return ", ".join(words) or "fp32"


def _bits(target: Target, steps: Sequence[Step], built: Mapping[str, Any]) -> dict[str, float]:
    """Bits of the shipped model for each parameter of the checkpoint; unknown where only a part of it is exported."""
    file = steps[0].checkpoint.manifest.parent / "tensors.json"
    whole = all(use.options.part == "model" for use in target.passes if use.declaration.name == "export")
    if not whole or not file.exists():
        return {}
    parameters = sum(math.prod(shape) for shape in read_json(file).values())
    size = sum(size for name, (_, size) in built["files"].items() if name.startswith("model.onnx"))
    return {"bits": size * 8 / parameters}


def _cost(target: Target, built: Mapping[str, Any]) -> dict[str, float]:
    """What all steps took when they ran: seconds together, and megabytes of the largest process, where every entry tells."""
    made = {record["key"]: record for _, record in history.chain(target.name)}
    records = [made.get(step["key"], {}) for step in built["steps"]]
    whole = {name for name in ("seconds", "memory") if all(record.get(name) is not None for record in records)}
    seconds = {"build": sum(record["seconds"] for record in records)} if "seconds" in whole else {}
    return seconds | ({"peak": max(record["memory"] for record in records) / 1e6} if "memory" in whole else {})


def _usual(found: Mapping[str, Hashable]) -> set[str]:
    """Names of those that agree with most."""
    ((most, _),) = Counter(found.values()).most_common(1) or [(None, 0)]
    return {name for name, value in found.items() if value == most}


def _qualities(group: Mapping[str, tuple[Target, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Figures of those that were evaluated as they are, on one text in one way; of the others {}."""
    found = {}
    for name, (target, built) in group.items():
        try:
            found[name] = quality.answer(target, "evaluation", quality.evaluation_key(target, built))
        except OnnxmakeError:  # its text is gone: a check will say so
            found[name] = None
    ways = {name: canonical_json([f["key"]["text"], f["key"]["settings"]]) for name, f in found.items() if f}
    usual = _usual(ways)
    return {name: dict(found[name]["metrics"]) if name in usual else {} for name in group}


def _speeds(group: Mapping[str, tuple[Target, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Prefill and decode of those that were measured as they are, targets of one device on one machine; of the others {}."""
    found = {name: results.of(target, built["files"]) for name, (target, built) in group.items()}
    known = {name: result for name, result in found.items() if result}
    usual: set[str] = set()
    for device in {result["device"] for result in known.values()}:
        usual |= _usual({n: canonical_json(r["machine"]) for n, r in known.items() if r["device"] == device})
    prompt = speed.shared_prompt([known[name] for name in usual])
    out: dict[str, dict[str, float]] = {name: {} for name in group}
    for name in usual if prompt is not None else ():
        run = speed.at(known[name], prompt)
        out[name] = {side: run[side]["p50"] for side in ("prefill", "decode") if run[side]} | {"prompt": prompt}
    return out


def rows(group: Mapping[str, tuple[Target, Sequence[Step], Mapping[str, Any]]]) -> list[Row]:
    """Of one model's built targets: name -> target, steps, what its manifest says."""
    plain = {name: (target, built) for name, (target, _, built) in group.items()}
    qualities, speeds = _qualities(plain), _speeds(plain)
    out = []
    for name, (target, steps, built) in group.items():
        size = sum(size for _, size in built["files"].values()) / 1e6
        hints = [f"check:{name}"] * (not qualities[name]) + [f"bench:{name}"] * (not speeds[name])
        values = {"size_mb": size} | _bits(target, steps, built) | _cost(target, built)
        again = reproduced.worst(reproduced.summary(target, built["files"]))
        out.append(
            Row(name, target.device, method(target, built), values | qualities[name] | speeds[name], hints, again)
        )
    return out
