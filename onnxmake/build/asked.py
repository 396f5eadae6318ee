"""What a command line of `doit new` asks for, as far as no look at a model is needed to say that it cannot be meant."""

import re
from collections.abc import Mapping
from typing import Any

from onnxmake.build.decide import chosen
from onnxmake.build.device import devices
from onnxmake.build.naming import check_name
from onnxmake.errors import TargetError

USAGE = "doit new -m OWNER/NAME --device cpu --precision int4, or -m FOLDER; doit help new has all options."


def understood(params: Mapping[str, Any], arguments: list[str]) -> tuple[str, float]:
    """The device, and how many MB there may be, 0 for any. Raises TargetError for a command line that cannot be meant."""
    if arguments:
        raise TargetError(f"{arguments[0]!r} is no option of doit new.", "The model is named behind -m.", USAGE)
    if not params["model"] or params["model"].startswith("-"):
        raise TargetError("doit new needs a model.", "None is named behind -m.", USAGE)
    if params.get("cwdPath"):  # -d, which doit takes for a folder of its own
        raise TargetError(f"-d {params['cwdPath']} names no device.", "-d is doit's own option.", "Write --device.")
    if params["name"]:
        check_name(params["name"], "--name ")
    if params["build"] and params["dry_run"]:
        raise TargetError(
            "--build and --dry-run do not go together.", "Nothing is written to build.", "Leave one away."
        )
    return chosen("device", params["device"], devices()), _megabytes(params["max_size_mb"])


def _megabytes(given: str) -> float:
    """0 for none. Raises TargetError for what is no size."""
    value = float(given) if re.fullmatch(r"\d+(\.\d+)?", given) else 0.0
    if given and not value:
        raise TargetError(
            f"--max-size-mb {given} is no size.",
            "It is a number of MB, of 10^6 bytes.",
            "Write --max-size-mb 400, for instance.",
        )
    return int(value) if value.is_integer() else value
