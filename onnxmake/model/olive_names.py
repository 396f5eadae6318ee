"""What scripts written for Olive import of it: the decorators of its registry, and a few names, so that they run without Olive."""

import enum
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np

KINDS = ("dataset", "pre_process", "post_process", "dataloader")


class Registry:
    """Functions by kind and name, in small letters."""

    _known: ClassVar[dict[str, dict[str, Callable]]] = {kind: {} for kind in KINDS}

    @classmethod
    def of(cls, kind: str) -> Mapping[str, Callable]:
        return cls._known[kind]

    @classmethod
    def _register(cls, kind: str, name: str | None) -> Callable[[Callable], Callable]:
        def decorator(component: Callable) -> Callable:
            cls._known[kind][(name or component.__name__).lower()] = component
            return component

        return decorator


def _decorators() -> None:
    for kind in KINDS:

        def register(cls: type, name: str | None = None, kind: str = kind) -> Callable:
            return cls._register(kind, name)  # type: ignore[attr-defined]

        def register_default(cls: type, kind: str = kind) -> Callable:
            return cls._register(kind, f"default_{kind}")  # type: ignore[attr-defined]

        setattr(Registry, f"register_{kind}", classmethod(register))
        setattr(Registry, f"register_default_{kind}", classmethod(register_default))


_decorators()


class BaseDataset:
    """Rows as (inputs, label), the first of `label_cols` being the label."""

    def __init__(self, data: Any, label_cols: Any = None, max_samples: int | None = None, **kwargs: Any):
        self.data, self.max_samples = data, max_samples
        self.label_cols = [label_cols] if isinstance(label_cols, str) else list(label_cols or [])

    def __len__(self) -> int:
        return len(self.data) if self.max_samples is None else min(len(self.data), self.max_samples)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        row = self.data[index]
        label = row[self.label_cols[0]] if self.label_cols else None
        return {name: value for name, value in row.items() if name not in self.label_cols}, label


class Framework(enum.StrEnum):
    ONNX = "ONNX"
    PYTORCH = "PyTorch"


class Device(enum.StrEnum):
    CPU = "cpu"
    GPU = "gpu"
    NPU = "npu"


class OliveModelOutput(NamedTuple):
    """`preds`: what the post-processing made of the outputs; `logits`: the outputs."""

    preds: Any
    logits: Any
    extras: Any = None


class OliveModelHandler:
    """A model that was built, as functions that evaluate are given one."""

    framework = Framework.ONNX


def format_data(data: Mapping[str, Any], io_config: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that the model has, as arrays of its types."""
    types = dict(zip(io_config["input_names"], io_config.get("input_types") or []))
    chosen = {name: np.asarray(value) for name, value in data.items() if name in io_config["input_names"]}
    return {name: value.astype(types.get(name, value.dtype), copy=False) for name, value in chosen.items()}


NAMES: dict[str, dict[str, Any]] = {
    "olive": {},
    "olive.common": {},
    "olive.common.utils": {"format_data": format_data},
    "olive.constants": {"Framework": Framework},
    "olive.data": {},
    "olive.data.registry": {"Registry": Registry},
    "olive.data.component": {},
    "olive.data.component.dataset": {"BaseDataset": BaseDataset, "ClassificationDataset": BaseDataset},
    "olive.evaluator": {},
    "olive.evaluator.olive_evaluator": {"OliveModelOutput": OliveModelOutput},
    "olive.hardware": {"Device": Device},
    "olive.hardware.accelerator": {"Device": Device},
    "olive.model": {"OliveModelHandler": OliveModelHandler, "ONNXModelHandler": OliveModelHandler},
}


def known() -> str:
    return ", ".join(f"{name} of {module}" for module, names in NAMES.items() for name in names)


def install() -> None:
    """Let the modules be imported."""
    for name, members in NAMES.items():
        module = ModuleType(name)
        module.__dict__.update(members, __path__=[])
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
