"""Rows that a script's data has, as Olive would feed them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from onnxmake.errors import TargetError
from onnxmake.model import user_script

FORMS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
OLIVES = {  # its own components, of which none is needed: files are read, texts become tokens, and rows stay single
    "dataset": ("", "huggingface_dataset", "local_dataset", "simple_dataset"),
    "pre_process": ("", "pre_process", "huggingface_pre_process", "text_generation_huggingface_pre_process"),
    "dataloader": ("", "default_dataloader", "no_auto_batch_dataloader"),
}
BATCHES = "no_auto_batch_dataloader"  # whose rows are batches already

Row = dict[str, Any]


def lists(value: Any) -> Any:
    """Settings as a workflow has them: options hold tuples."""
    if isinstance(value, Mapping):
        return {name: lists(inner) for name, inner in value.items()}
    return [*map(lists, value)] if isinstance(value, tuple) else value


def _files(settings: Row, script: Path) -> Any:
    """The rows of files beside the script, read by the library that scripts expect. Raises TargetError."""
    files = settings.get("data_files")
    named = [files] if isinstance(files, str) else files
    if not named or not all(Path(name).suffix in FORMS for name in named):
        raise TargetError(
            f"{script.name} is given no data: load_dataset names no function of its own, and no file.",
            f"Data sets of the hub are not fetched for a script; data_files = {files!r}.",
            f'Name a file beside the script: data_files = "FILE", of {", ".join(FORMS)}.',
        )
    from datasets import load_dataset

    return load_dataset(FORMS[Path(named[0]).suffix], data_files=named, split="train")


def _component(module: ModuleType, kind: str, settings: Mapping[str, Any]) -> tuple[Callable | None, str, Row]:
    """The script's function, if the component is not one of Olive's; its name; what it is called with. Raises TargetError."""
    plain = lists(settings)
    name = str(plain.pop("type", None) or "")
    registered = user_script.olive_names.Registry.of(kind).get(name.lower() or f"default_{kind}")
    own = registered or (None if name.lower() in OLIVES[kind] else user_script.found(module, kind, name))
    return own, name.lower(), plain


def _samples(data: Any, whole: bool) -> Iterator[Any]:
    """One after the other, of whatever a script gives: a data set by number, an iterable, or a reader with get_next."""
    if hasattr(data, "get_next"):
        return iter(data.get_next, None)
    if not whole and hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping):
        return (data[number] for number in range(len(data)))
    return iter(data)


def _row(sample: Any, number: int, script: Path) -> Row:
    """The inputs of a sample, without its label. Raises TargetError."""
    if isinstance(sample, list | tuple) and 1 <= len(sample) <= 2:
        sample = sample[0]
    if not isinstance(sample, Mapping) or not sample:
        raise TargetError(
            f"{script.name}: sample {number} of its data is {type(sample).__name__}, not values by the names of inputs.",
            "Nothing says which input they are for.",
            'Let the data set give {"NAME": values} or ({"NAME": values}, label).',
        )
    return {str(name): value for name, value in sample.items()}


def array_of(value: Any) -> np.ndarray:
    """Of a tensor on any device, too."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def rows(o: Any, script: Path, checkpoint: Path) -> Iterator[Row]:
    """What the script's data has, as Olive would feed it: values by name, of one sample without a leading axis. `o`: the options of
    the pass `run_script`. Raises TargetError, StepFailed."""
    module = user_script.load(script, checkpoint, o.model)
    with user_script.telling(script):
        first: tuple = ()
        if o.load_dataset:
            function, _, given = _component(module, "dataset", o.load_dataset)
            first = (user_script.call(function, (), given) if function else _files(given, script),)
        function, _, given = _component(module, "pre_process", o.pre_process)
        if function and first:
            first = (user_script.call(function, first, given),)
        loader, name, given = _component(module, "dataloader", o.dataloader)
        data = user_script.call(loader, first, given) if loader else first[0] if first else ()
        batches = loader is not None or name == BATCHES
        for number, sample in enumerate(_samples(data, batches)):
            row = _row(sample, number, script)
            if not batches:
                yield row
                continue
            arrays = {key: array for key, value in row.items() if (array := array_of(value)).ndim}
            yield from (
                {key: array[n] for key, array in arrays.items()}
                for n in range(min(map(len, arrays.values()), default=0))
            )
