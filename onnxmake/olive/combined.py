"""Rules that say more than a name: what several options mean together, nested options, lists."""

from collections.abc import Callable, Mapping
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.olive import scripted
from onnxmake.olive.rules import Place, Rule, Settings, WrongType, names, one_of, typed
from onnxmake.olive.surgeries import KEYS, OF_GENAI, SURGERIES
from onnxmake.olive.told import Refusal

INTEGERS = ("int4", "int8")  # precisions of ModelBuilder that round weights
LEVELS = {0: "disabled", 1: "basic", 2: "extended", 99: "all"}  # ONNX Runtime's numbers
SEQUENTIAL, PARALLEL = "sequential", "parallel"
EXECUTION = {0: SEQUENTIAL, 1: PARALLEL, "ORT_SEQUENTIAL": SEQUENTIAL, "ORT_PARALLEL": PARALLEL}
OPSETS = (20, 21)  # the first that has a form of every operator of graphs here, and the one that they are of
ROUNDED_AS_IT_RUNS = {"onnxdynamicquantization", "onnxquantization"}  # needs the second of them


def script(value: Any, place: Place) -> Settings:
    if value:
        scripted.allow(value)
        raise Refusal(f"{value} is asked of a pass that runs no script", "Let a data config name the script.")
    return {}


def own_script(value: Any, place: Place) -> Settings:
    """Of a pass that is calibrated: dataloader_func says what is run."""
    if value:
        scripted.allow(value)
    return {}


def precision(value: Any, place: Place) -> Settings:
    """Of ModelBuilder: integers are weights in blocks; GPUs compute the rest in float16."""
    name = one_of(value, ("fp32", "fp16", "bf16", "int4", "int8"))
    number = int(name[3:]) if name in INTEGERS else 0
    floats = "fp16" if number and place.device != "cpu" else name
    cast = {"cast.dtype": floats} if floats in ("fp16", "bf16") else {}
    block = {"quantize.method": "rtn", "quantize.bits": number, "quantize.block_size": 32, "quantize.implied": True}
    return cast | (block | {"quantize.embeddings": "keep"} if number else {})


def rounds(options: Mapping[str, Any]) -> bool:
    """Whether ModelBuilder rounds weights; its precision is fp32 unless said."""
    return str(options.get("precision", "fp32")).lower() in INTEGERS


def tied(value: Any, place: Place) -> Settings:
    """One table for look-ups and head: it is rounded as the head is."""
    return {"quantize.embeddings": "same"} if typed(value, bool) else {}


def cuda_bf16(value: Any, place: Place) -> Settings:
    return {"cast.dtype": "bf16"} if typed(value, bool) and place.device == "cuda" else {}


def with_int8(options: Mapping[str, Any], place: Place) -> Settings:
    """Of ModelBuilder, whatever else is said: look-ups have 4 bits or none, and bfloat16 is for int4."""
    if str(options.get("precision")).lower() != "int8":
        return {}
    return {"quantize.embeddings": "keep"} | ({"cast.dtype": "fp16"} if place.device != "cpu" else {})


def newest(options: Mapping[str, Any], place: Place) -> Settings:
    """Of OnnxOpVersionConversion, whose default is the newest set that its onnx knows."""
    if options.get("target_opset") is None:
        place.note(f"without target_opset Olive takes the newest of its onnx; the graph stays of {OPSETS[1]}")
    return {}


def opset(value: Any, place: Place) -> Settings:
    """target_opset of a conversion, which counts where it is written."""
    first, here = OPSETS
    if value is None or typed(value, int) == here:
        return {}
    if place.beside & ROUNDED_AS_IT_RUNS:
        first = here
    if value < first:
        lacking = f"graphs are of opset {here}: before {first} some of their operators have no form"
        place.note(f"{lacking}; the pass OnnxOpVersionConversion tries")
        return {}
    return {"upgrade_opset.opset": value, "upgrade_opset.may_skip": True}


def extra(known: Mapping[str, Rule]) -> Rule:
    """Options in an object of their own."""

    def rule(value: Any, place: Place) -> Settings:
        out: Settings = {}
        for name, given in typed(value, dict).items():
            if name not in known:
                raise Refusal(f"extra_options: {name} is not known here", nearest(name, known))
            text = given if not isinstance(given, str) else {"true": True, "false": False}.get(given.lower(), given)
            out |= known[name](int(text) if isinstance(text, str) and text.isdigit() else text, place)
        return out

    return rule


def op_types(value: Any, place: Place) -> Settings:
    """Types of nodes that ModelBuilder rounds: look-ups, too, if they are named."""
    types = value.split("/") if isinstance(value, str) else names(value)
    if unknown := [name for name in types if name not in ("MatMul", "Gemm", "Gather")]:
        raise Refusal(f"{unknown[0]} is no type of node with weights", "Name MatMul, Gemm and Gather.")
    if types and "MatMul" not in types:
        raise Refusal(
            "weights of products are rounded with those of look-ups",
            'Name MatMul; embeddings = "int4" rounds them alone.',
        )
    return {"quantize.embeddings": "same" if "Gather" in types else "keep"}


def mixed_matmuls(value: Any, place: Place) -> Settings:
    """matmul_mixed_precision of the builder: groups of products with other bits."""
    out: Settings = {}
    for part in filter(None, typed(value, str).split(",")):
        group, _, kind = part.strip().partition(":")
        if group not in ("last_matmul", "mixed_layers") or kind not in ("int4", "int8"):
            raise Refusal(
                f"{part!r} is no group with bits here", "Name last_matmul and mixed_layers, with int4 or int8."
            )
        if kind == "int8":
            out |= {"quantize.lm_head": "int8"} if group == "last_matmul" else {"allocate_bits.average_bits": 5.0}
    return out


def level(value: Any, place: Place) -> Settings:
    """Olive rewrites the graph by ONNX Runtime at this level; here the runtime does when it loads the model."""
    one_of(value, [None, *LEVELS, *LEVELS.values()])
    place.note("ONNX Runtime rewrites the graph when it loads it; OrtSessionParamsTuning chooses the level")
    return {}


def surgeries(value: Any, place: Place) -> Settings:
    """GraphSurgeries: each is one of its own."""
    out = []
    for number, given in enumerate(typed(value, list)):
        name = typed(given, dict).get("surgeon")
        found = {known.lower(): known for known in SURGERIES}.get(str(name).lower())
        if found is None:
            raise Refusal(f"surgeries[{number}], {name}, is not known here", nearest(str(name), SURGERIES))
        take = SURGERIES[found]
        if isinstance(take, str):
            raise Refusal(f"surgeries[{number}], {name}: {take}", "Leave it out.")
        own = {key: v for key, v in given.items() if key != "surgeon"}
        if own.keys() - (keys := {*KEYS.get(found, ())}):
            raise WrongType(f"a list where {name} has only {', '.join(('surgeon', *sorted(keys)))}")
        if found in OF_GENAI and place.generates:
            raise Refusal(
                f"surgeries[{number}], {name}: GenAI knows inputs and outputs of what generates text by name",
                "Leave it out.",
            )
        if own.get("threshold", LOWEST) != LOWEST:
            place.note(f"{name}: every value of the mask below replacement is replaced, whatever threshold says")
        options = take(own)
        if options:
            out.append(options | {"may_skip": True})  # Olive does not mind a graph that has nothing of the kind
    return {"surgery": out} if out else {}


FIXED = ("k_quant_down", "k_quant_mixed", "k_quant_last")  # of SelectiveMixedPrecision: layers by their place
LOWEST = -3e30  # threshold of ReplaceAttentionMaskValue, unless said
SCORED = ("snr", "snr_relative", "iqe", "iqe_relative", "kld_gradient")  # layers by what they lose
WIDTHS = {2: 2, 4: 4, 8: 8}
BITS = {2: "int2", 4: "int4", 8: "int8", 16: "keep", 32: "keep"}


def parts(options: Mapping[str, Any], place: Place) -> Settings:
    """Head and embeddings of a checkpoint's quantiser, which leaves them unless told; and modules with bits of their own."""
    asked = {"lm_head": options.get("lm_head", False), "embeddings": options.get("embeds", False)}
    out: Settings = {f"quantize.{part}": "same" if typed(on, bool) else "keep" for part, on in asked.items()}
    named: dict[str, list[str]] = {}
    for name, given in typed(options.get("overrides") or {}, dict).items():
        if not isinstance(given, dict) or type(given.get("bits")) is not int or given["bits"] not in BITS:
            raise Refusal(f"overrides: {name} is given no bits of 2, 4, 8 or 16", "Write bits only.")
        if given.keys() - {"bits"}:
            place.note(f"{name} has the block size and symmetry of all the others")
        bits, last = BITS[given["bits"]], name.split(".")[-1]
        part = {"lm_head": "lm_head", "embed_tokens": "embeddings", "wte": "embeddings"}.get(last)
        if part is None:
            named.setdefault(bits, []).append(name)
        elif asked[part]:
            out[f"quantize.{part}"] = bits
    return out | {f"quantize.{bits}": names for bits, names in named.items()}


def whole_rows(options: Mapping[str, Any], place: Place) -> Settings:
    if "group_size" not in options:
        raise Refusal(
            "its group_size is -1 unless said, and blocks of whole rows have no kernel", "Add group_size 128."
        )
    return {}


def not_converted(value: Any, place: Place) -> Settings:
    return {"quantize.keep": [f"*{name}*" for name in typed(value, list)]} if value else {}


def selective(options: Mapping[str, Any], place: Place) -> Settings:
    """SelectiveMixedPrecision: of a fixed choice of layers, or of as many weights as ratio says; allocate_bits measures which."""
    low, high = (
        WIDTHS[one_of(options.get(name, default), WIDTHS)] for name, default in (("bits", 4), ("high_bits", 8))
    )
    algorithm, ratio = one_of(options.get("algorithm"), FIXED + SCORED), None
    if algorithm == "k_quant_last":
        return {"next.lm_head": f"int{high}"}
    if algorithm in SCORED and not 0 < (ratio := typed(options.get("ratio"), float)) < 1:
        raise WrongType(f"with {algorithm}, one with a ratio between 0 and 1")
    average = low + (high - low) * (0.25 if ratio is None else 1 - typed(ratio, float))
    if ratio is None:
        place.note(
            f"allocate_bits measures which weights get {high} bits, with {average:g} on average, in place of {algorithm}'s layers"
        )
    return {
        "allocate_bits.average_bits": float(round(average, 3)),
        "allocate_bits.low_bits": low,
        "allocate_bits.high_bits": high,
    }


def listed(label: str, kind: type | Mapping[Any, str]) -> Rule:
    """One value or several, of a pass that is for CPUs."""

    def rule(value: Any, place: Place) -> Settings:
        if value is None or place.device != "cpu":
            return {}
        values = value if isinstance(value, list) else [value]
        take: Callable = (lambda v: typed(v, kind)) if isinstance(kind, type) else lambda v: kind[one_of(v, kind)]
        return {label: [take(v) for v in values]}

    return rule


def timed(value: Any, place: Place) -> Settings:
    """What a session would be timed on: a text does for every device that one is timed on."""
    if value is not None and place.device == "cpu":
        place.note("the session is timed on the text that comes along")
    return {}


def session(options: Mapping[str, Any], place: Place) -> Settings:
    if place.device != "cpu":
        place.note("sessions are tuned on CPUs: this one keeps its options; doit bench measures on the device")
        return {}
    return {"tune_session.spinning": [True, False]}
