"""What a person sets for one run, as `doit NAME=VALUE ...`, or for all, as ONNXMAKE_NAME in the environment."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from doit import get_var

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError

_given: ContextVar[Mapping[str, str]] = ContextVar("_given", default={})  # noqa: B039  never changed in place


def setting(name: str, default: str = "") -> str:
    return _given.get().get(name) or get_var(name) or os.environ.get(f"ONNXMAKE_{name.upper()}") or default


def choice(name: str, valid: tuple[str, ...]) -> str:
    """One of `valid`, the first unless it is set. Raises TargetError."""
    value = setting(name, valid[0])
    if value not in valid:
        raise TargetError(f"{name}={value} is none that there is.", "A typing error.", nearest(value, valid))
    return value


@contextlib.contextmanager
def given(**settings: str) -> Iterator[None]:
    """For what this thread does meanwhile, as `doit NAME=VALUE` for a run; an empty value leaves a setting as it is."""
    token = _given.set({**_given.get(), **settings})
    try:
        yield
    finally:
        _given.reset(token)
