"""Rules for what stands at a model's border: types of inputs and outputs, their sizes."""

import re
from collections.abc import Mapping
from typing import Any

from onnxmake.olive.rules import Place, Settings, WrongType, names, one_of, typed
from onnxmake.olive.told import Refusal

NUMBERS = {1: "fp32", 6: "int32", 7: "int64", 10: "fp16", 16: "bf16"}  # TensorProto.DataType
INPUTS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "inputs_embeds",
    "pixel_values",
    "input_features",
)
OUTPUTS = ("logits", "last_hidden_state", "pooler_output", "sentence_embedding", "text_embeds", "image_embeds")
NAMES = "inputs and outputs have the names of the checkpoint's class, and free sizes; DynamicToFixedShape and surgeries change them"
SIZES = {  # names of Optimum's -> here
    "batch_size": "batch",
    "sequence_length": "sequence",
    "past_sequence_length": "past",
    "total_sequence_length": "total",
    "past_sequence_length + sequence_length": "total",
}


def _at_border(
    place: Place, inputs: list[str], outputs: list[str], dtype: str = "fp32", only: str = "fp16"
) -> Settings:
    """convert_io_dtype of these; where text is generated, "*" is no state. Olive does not mind where nothing is of the type."""
    if place.generates:
        inputs, outputs = [n for n in inputs if n != "*"], ["logits" if n == "*" else n for n in outputs]
    given = {"dtype": dtype, "only": only, "inputs": inputs, "outputs": outputs, "may_skip": True}
    return {f"convert_io_dtype.{option}": value for option, value in given.items()}


def half_if_asked(options: Mapping[str, Any], place: Place) -> Settings:
    """float16 of OrtTransformersOptimization, whose inputs and outputs stay unless told."""
    if not options.get("float16"):
        return {}
    return {"cast.dtype": "fp16"} | (_at_border(place, ["*"], ["*"]) if options.get("keep_io_types", True) else {})


def border_kept(options: Mapping[str, Any], place: Place) -> Settings:
    """keep_io_types of OnnxFloatToFloat16: all, or those named."""
    kept = options.get("keep_io_types", False)
    if isinstance(kept, list):
        return _at_border(place, [n for n in kept if n in INPUTS], [n for n in kept if n not in INPUTS])
    return _at_border(place, ["*"], ["*"]) if typed(kept, bool) else {}


def shapes(options: Mapping[str, Any], place: Place) -> Settings:
    """DynamicToFixedShape: sizes by name, or inputs' shapes."""
    if options.get("dim_param") and options.get("input_name"):
        raise WrongType("one with either dim_param or input_name")
    for key, values, label in (("dim_param", "dim_value", "dims"), ("input_name", "input_shape", "inputs")):
        if options.get(key):
            keys, given = names(options[key]), typed(options.get(values), list)
            if len(keys) != len(given):
                raise WrongType(f"as many {values} as {key}")
            return {f"fix_shapes.{label}": {SIZES.get(one, one): size for one, size in zip(keys, given)}}
    raise WrongType("dim_param and dim_value, or input_name and input_shape")


def border(options: Mapping[str, Any], place: Place) -> Settings:
    """OnnxIODataTypeConverter: a pattern is a regular expression there, which names contain."""
    pattern = typed(options.get("name_pattern", "logits"), str)
    if not re.fullmatch(r"[\w.]*", pattern):
        raise Refusal(
            f"name_pattern {pattern!r} is more than a part of a name", "Write a part of the name, without signs."
        )
    source, target = options.get("source_dtype", 10), options.get("target_dtype", 1)
    glob, known = [f"*{pattern}*" if pattern else "*"], {"in": INPUTS, "out": OUTPUTS}
    on = [side for side, those in known.items() if any(pattern in name for name in those)] or [*known]
    dtype, only = NUMBERS[one_of(target, NUMBERS)], NUMBERS[one_of(source, NUMBERS)]
    return _at_border(place, glob if "in" in on else [], glob if "out" in on else [], dtype, only)
