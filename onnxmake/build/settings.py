"""What a person sets for one run, as `doit NAME=VALUE ...`, or for all, as ONNXMAKE_NAME in the environment."""

import os

from doit import get_var

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError


def setting(name: str, default: str = "") -> str:
    return get_var(name) or os.environ.get(f"ONNXMAKE_{name.upper()}") or default


def choice(name: str, valid: tuple[str, ...]) -> str:
    """One of `valid`, the first unless it is set. Raises TargetError."""
    value = setting(name, valid[0])
    if value not in valid:
        raise TargetError(f"{name}={value} is none that there is.", "A typing error.", nearest(value, valid))
    return value
