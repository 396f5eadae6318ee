"""Figures that a script's function makes of a built model."""

import inspect
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from onnxmake.errors import TargetError
from onnxmake.model import user_script
from onnxmake.model.built import Built
from onnxmake.model.scripted import lists
from onnxmake.model.session import PROVIDERS


def evaluate(o: Any, script: Path, checkpoint: Path, file: Path) -> dict[str, float]:
    """Name -> figure. `o`: the options of `run_metric`. Raises TargetError, StepFailed, UnsupportedError."""
    module, model = user_script.load(script, checkpoint, o.model), Built(file)
    with user_script.telling(script):
        function = user_script.found(module, "metric", o.evaluate)
        said = {"device": "cpu", "execution_providers": [PROVIDERS["CPU"]]}
        parameters = inspect.signature(function).parameters
        taken = {name: value for name, value in said.items() if name in parameters}
        found = user_script.call(function, (model,), taken | lists(o.arguments))
    named = found if isinstance(found, Mapping) else {o.name: found}
    numbers = {str(name): _number(value) for name, value in named.items()}
    for name, value in numbers.items():
        if value is None or not math.isfinite(value) or not name.isidentifier():
            raise TargetError(
                f"{script.name}: {o.evaluate} gives {named[name]!r} as {name}.",
                "A figure is a finite number under a name of letters, digits and _.",
                "Let it return a number, or a table of numbers.",
            )
    if not numbers:
        raise TargetError(
            f"{script.name}: {o.evaluate} gives no figure.", "Its table is empty.", "Let it return a number."
        )
    return numbers  # type: ignore[return-value]


def _number(value: Any) -> float | None:
    """Also of an array or a tensor that holds one."""
    if hasattr(value, "item") and getattr(value, "size", None) in (1, ()) or hasattr(value, "numel"):
        value = value.item() if not hasattr(value, "numel") or value.numel() == 1 else None
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
