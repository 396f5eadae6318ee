"""onnx_ir imports sympy for arithmetic on symbolic dimensions, which steps do not do.

0.4 s of every process. Import it when it is first called.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any


class _Name:
    """A function or class of sympy, looked up when called."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(sys.modules.get("sympy"), _Sympy):
            del sys.modules["sympy"]
        return getattr(importlib.import_module("sympy"), self.name)(*args, **kwargs)


class _Sympy(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name)


def postpone_sympy() -> None:
    """Let `import sympy` cost nothing until something of it is called. Not where torch is: it is a heavy user."""
    if "sympy" not in sys.modules and importlib.util.find_spec("torch") is None:
        sys.modules["sympy"] = _Sympy("sympy")
