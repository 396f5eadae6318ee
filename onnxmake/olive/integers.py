"""Rules for what quantises activations, too: OnnxQuantization and its kin."""

from collections.abc import Mapping
from typing import Any

from onnxmake.olive.rules import Place, Rule, Settings, each, names, one_of, text
from onnxmake.olive.told import Refusal

SIGNS = ("", "u", "q", "qu")  # "QUInt8": as older workflows write it
OTHER = ("4", "16")  # bits that NPUs compute with


def _bytes(why: str, closest: str) -> Rule:
    """Integers of 8 bits, which have their sign from the quantiser here; those of other bits are refused."""
    others = {f"{sign}int{bits}": (why, closest) for sign in SIGNS for bits in OTHER}
    return each({f"{sign}int8": {} for sign in SIGNS}, others)


activations = _bytes("activations have 8 bits", "Write uint8: other widths are for NPUs.")
weights = _bytes(
    "weights beside quantised activations have 8 bits", "Write int8; or round weights only, as KQuant does."
)


def _integers(use: str, options: Mapping[str, Any]) -> Settings:
    """Products are rounded, and look-ups unless types of operators say otherwise."""
    types, without = (names(options.get(f"op_types_to_{which}") or []) for which in ("quantize", "exclude"))
    left = "MatMul" not in types if types else bool({*without} & {"MatMul", "Gemm", "Attention"})
    if left:
        raise Refusal(
            "some products are rounded, or not, by their names", 'Name MatMul; keep = ["*.o_proj"] leaves some.'
        )
    looked_up = "Gather" in types if types else "Gather" not in without
    return {
        f"{use}.bits": 7 if options.get("reduce_range") else 8,
        f"{use}.embeddings": "int8" if looked_up else "keep",
    }


def dynamic(options: Mapping[str, Any], place: Place) -> Settings:
    if place.device != "cpu":
        raise Refusal(
            f"{place.device} has no kernel for activations that are quantised as the model runs",
            "Use OnnxBlockWiseRtnQuantization.",
        )
    return _integers("quantize_dynamic", options)


def static(options: Mapping[str, Any], place: Place) -> Settings:
    method = one_of(options.get("calibrate_method", "MinMax"), ("MinMax", "Entropy", "Percentile"))
    calibration = (
        text("quantize_static.calibration")(options["data_config"], place) if options.get("data_config") else {}
    )
    if options.get("dataloader_func") and not calibration:
        file, read = place.data(options)
        calibration = {"quantize_static.calibration": file} | {f"quantize_static.{k}": v for k, v in read.items()}
    return _integers("quantize_static", options) | {"quantize_static.method": method.lower()} | calibration


def dynamic_or_static(options: Mapping[str, Any], place: Place) -> Settings:
    mode = one_of(options.get("quant_mode", "static"), ("static", "dynamic"))
    return (dynamic if mode == "dynamic" else static)(options, place)
