"""Settings of all passes to [[pass]] blocks, in this project's order, whatever the workflow's is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxmake.olive.one import Open
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Refusal, Told

BEFORE = ("finetune", "export", "pool", "cast", "cast_calibrated", "optimize", "allocate_bits")  # each once
QUANTISERS = ("quantize", "quantize_dynamic", "quantize_static")
LAST = "tune_session"
BEHIND = ("surgery", "fix_shapes", "convert_io_dtype", "upgrade_opset", LAST)  # in the workflow's order, but the last
Blocks = list[tuple[str, dict[str, Any]]]  # pass -> its options


def _grouped(settings: Settings) -> dict[str, dict[str, Any]]:
    """Pass -> options. "pass": True is a pass that is there and has none."""
    out: dict[str, dict[str, Any]] = {}
    for label, value in settings.items():
        use, _, option = label.partition(".")
        group = out.setdefault(use, {})
        if option:
            group[option] = value
        elif isinstance(value, list):
            group["several"] = value
    return out


def _asked(groups: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
    """Without the quantiser that ModelBuilder brings where another pass is one, and without options of one that is none."""
    there = [g["quantize"] for g in groups if "method" in g.get("quantize", {})]
    dropped = any("implied" not in one for one in there)
    out = []
    for group in groups:
        one = group.get("quantize", {})
        gone = {"quantize"} if one and "method" not in one else set()
        gone |= {"quantize", "allocate_bits"} if dropped and "implied" in one else set()
        out.append({use: options for use, options in group.items() if use not in gone})
    return out


def _quantisers(found: list[dict[str, Any]], following: Mapping[str, Any]) -> Blocks:
    """Each under its own name; what SelectiveMixedPrecision says is of the first. Raises Refusal."""
    if following and not found:
        raise Refusal("SelectiveMixedPrecision is followed by no quantiser", "Add Rtn, KQuant or Gptq behind it.")
    out: Blocks = []
    for number, block in enumerate(found):
        options = {key: value for key, value in block.items() if key not in ("method", "implied")}
        if number == 0:
            options |= {key: value for key, value in following.items() if options.get(key) != "keep"}
        out.append((f"quantize_{block['method']}", options))
    return out


def _refuse_seconds(groups: list[dict[str, dict[str, Any]]]) -> None:
    """Passes that would become one with the options of both. Raises Refusal."""
    tuned = ["method" in g["finetune"] for g in groups if "finetune" in g]
    if sum(tuned) > 1:
        raise Refusal(
            "two passes tune adapters", "Write two finetune passes into what doit import makes of one of them."
        )
    if tuned and not any(tuned):
        raise Refusal("ExtractAdapters is behind nothing that tunes any", "Add LoRA in front of it.")
    if sum(LAST in g for g in groups) > 1:
        raise Refusal("two passes tune the session", "Write the values of both into one.")


def ordered(settings: list[Settings], told: Told) -> Blocks:
    """The [[pass]] blocks. Raises Refusal."""
    groups = _asked([_grouped(one) for one in settings])
    _refuse_seconds(groups)
    merged: dict[str, dict[str, Any]] = {}
    for group in groups:
        for use in group.keys() & {*BEFORE, "next", "attach_adapters", "package_genai"}:
            merged[use] = merged.get(use, {}) | group[use]
    if "cast" in merged and "cast_calibrated" in merged:
        del merged["cast"]
    for use in ("export", "optimize"):
        merged.setdefault(use, {})
    quantisers = _quantisers([g["quantize"] for g in groups if "quantize" in g], merged.get("next", {}))
    if quantisers and merged.get("next") and quantisers[0][1].get("lm_head") == "keep":
        told.note(
            "passes", "SelectiveMixedPrecision gives lm_head its bits, and the quantiser behind it leaves lm_head"
        )
    if allocated := merged.get("allocate_bits"):
        if not quantisers:
            raise Refusal("SelectiveMixedPrecision is followed by no quantiser", "Add Rtn, KQuant or Gptq behind it.")
        options = quantisers[0][1]
        allocated |= {name: options[name] for name in ("block_size", "symmetric") if name in options}
        allocated |= {"embeddings": "keep"} if options.get("embeddings") == "keep" else {}
        allocated["low_bits"] = options.get("bits", 4)
    before = [(use, merged[use]) for use in BEFORE if use in merged]
    attached: Blocks = [("attach_adapters", {})] if "attach_adapters" in merged else []
    both = [(use, g[use]) for g in groups for use in QUANTISERS[1:] if use in g]
    package: tuple[str, dict] = ("package_genai" if "package_genai" in merged else "package_onnx", {})
    behind = [
        (use, dict(g[use]))
        for last in (False, True)
        for g in groups
        for use in BEHIND
        if use in g and (use == LAST) is last
    ]
    return [*before, *quantisers, *both, *attached, package, *_spread(behind)]


def _spread(blocks: Blocks) -> Iterator[tuple[str, dict[str, Any]]]:
    for use, options in blocks:
        yield from ((use, one) for one in options["several"]) if "several" in options else [(use, options)]


def axes(found: Sequence[tuple[Settings, Open]], blocks: Blocks) -> Open:
    """What the passes leave open, of those that are in the blocks, under their names. Raises Refusal for what a search cannot vary."""
    out: Open = {}
    uses = [use for use, _ in blocks]
    heard = _asked([_grouped(settings) for settings, _ in found])
    for (settings, open_), group in zip(found, heard):
        for label, values in open_.items():
            use, _, option = label.partition(".")
            if use in ("quantize", "allocate_bits") and use not in group:
                continue  # another quantiser takes its place
            name = f"quantize_{settings['quantize.method']}" if use == "quantize" else use
            varied = all(isinstance(value, str | int | float | bool) for value in values)
            if label in ("quantize.method", "quantize.implied") or not option or uses.count(name) != 1 or not varied:
                raise Refusal(
                    f"{label} cannot be varied by a search",
                    "Write a workflow for each; doit compare puts them side by side.",
                )
            out[f"{name}.{option}"] = values
    return out
