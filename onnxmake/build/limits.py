"""What a `__post_init__` of target and release files refuses, in the words of JSON Schema. A test asks both of changes at random."""

import dataclasses
import re
from typing import Any

from onnxmake.build.dataset import HUB, MADE, OPTIONS
from onnxmake.build.gates import Check
from onnxmake.build.releases import Keys
from onnxmake.build.space import OBJECTIVES, Settings
from onnxmake.build.target import COMMIT, Bench, Source

UNNAMED = re.compile(r"\?P<\w+>")  # groups have no names in the dialect of JSON Schema
AT_LEAST_1 = {"minimum": 1}
FRACTION = {"minimum": 0, "maximum": 1}
FILE = {
    "anyOf": [
        {"not": {"pattern": "://"}},
        {"pattern": f"^{UNNAMED.sub('', HUB.pattern)}$"},
        {"pattern": f"^{MADE}."},
    ]
}
OF_OPTIONS: dict[str, dict[str, Any]] = dict.fromkeys(OPTIONS, FILE)  # of passes, whichever
OF_FIELDS: dict[type, dict[str, dict[str, Any]]] = {
    Source: {"revision": {"pattern": f"^{COMMIT.pattern}$"}},
    Bench: {
        "prompt_tokens": {"minItems": 1, "items": {"type": "integer", "minimum": 1}},
        "new_tokens": AT_LEAST_1,
        "repeats": AT_LEAST_1,
    },
    Check: {
        **{f.name: {"minimum": 0} for f in dataclasses.fields(Check) if f.name[:4] in ("max_", "min_")},
        "text": FILE,
        "window": {"minimum": 2},
        "stride": AT_LEAST_1,
        "max_tokens": {"minimum": 2},
        "min_top1": FRACTION,
        "min_cosine": FRACTION,
    },
    Settings: {"trials": AT_LEAST_1, "objectives": {"minItems": 1, "items": {"enum": [*OBJECTIVES]}}},
    Keys: {"targets": {"minItems": 1, "uniqueItems": True}},
}
OF_TABLES: dict[type, dict[str, Any]] = {
    Source: {  # a repository at a commit, or a folder
        "oneOf": [
            {"required": ["repo", "revision"], "not": {"required": ["path"]}},
            {"required": ["path"], "not": {"anyOf": [{"required": ["repo"]}, {"required": ["revision"]}]}},
        ]
    },
    Check: {
        "dependentRequired": {"min_decode": ["than"], "than": ["min_decode"]},
        "if": {"required": ["text_template"], "properties": {"text_template": {"minLength": 1}}},
        "then": {"required": ["text"]},
    },
}
