"""What a script's data is, as a file that passes read: arrays by input, texts, or rows."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from onnxmake.errors import TargetError
from onnxmake.model import user_script
from onnxmake.model.texts import tokenizer_of

FORMS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
OLIVES = {  # its own components, of which none is needed: files are read, texts become tokens, and rows stay single
    "dataset": ("", "huggingface_dataset", "local_dataset", "simple_dataset"),
    "pre_process": ("", "pre_process", "huggingface_pre_process", "text_generation_huggingface_pre_process"),
    "dataloader": ("", "default_dataloader", "no_auto_batch_dataloader"),
}
BATCHES = "no_auto_batch_dataloader"  # whose rows are batches already
PADDABLE = "attention_mask"  # by which a model leaves out what fills a row up

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


def _array(value: Any) -> np.ndarray:
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
            arrays = {key: array for key, value in row.items() if (array := _array(value)).ndim}
            yield from (
                {key: array[n] for key, array in arrays.items()}
                for n in range(min(map(len, arrays.values()), default=0))
            )


def _texts(row: Row, columns: Sequence[str]) -> list[str]:
    """The row's texts: of these columns, or all of them."""
    return [row[name] for name in columns or row if isinstance(row.get(name), str)]


def _tokens(found: list[Row], o: Any, checkpoint: Path) -> list[Row]:
    """Rows of texts as rows of tokens: each text cut and filled up to `tokens`, or one after the other, cut into rows of as many."""
    tokenizer = tokenizer_of(checkpoint)
    if o.padded:
        tokenizer.enable_truncation(o.tokens)
        tokenizer.enable_padding(length=o.tokens)
        read = tokenizer.encode_batch(
            [tuple(t[:2]) if len(t) > 1 else t[0] for row in found if (t := _texts(row, o.columns))]
        )
        return [{"input_ids": r.ids, "attention_mask": r.attention_mask, "token_type_ids": r.type_ids} for r in read]
    ids = [token for row in found for text in _texts(row, o.columns) for token in tokenizer.encode(text).ids]
    return [{"input_ids": ids[at : at + o.tokens]} for at in range(0, len(ids) - o.tokens + 1, o.tokens)]


def _stacked(name: str, values: list[np.ndarray], padded: bool, script: Path) -> np.ndarray:
    """[samples, ...]; rows of other lengths are filled up with zeros where a mask leaves them out. Raises TargetError."""
    shapes = {value.shape for value in values}
    if len(shapes) > 1 and padded and {value.ndim for value in values} == {1}:
        longest = max(map(len, values))
        values = [np.pad(value, (0, longest - len(value))) for value in values]
    elif len(shapes) > 1:
        raise TargetError(
            f"{script.name}: {name} is of {len(shapes)} shapes, among them {' and '.join(map(str, sorted(shapes)[:2]))}.",
            "Samples of a calibration lie in one array.",
            "Give all the same shape, by padding or cutting them in the script.",
        )
    return np.stack(values)


def _arrays(found: list[Row], script: Path) -> dict[str, np.ndarray]:
    """Name -> [samples, ...] of numbers. Raises TargetError where there is none."""
    names = [
        name
        for name, value in found[0].items()
        if _array(value).dtype.kind in "biuf" and all(name in row for row in found)
    ]
    if not names:
        raise TargetError(
            f"{script.name}: its data has no numbers, but {', '.join(found[0])}.",
            "An .npz file holds arrays by the names of inputs.",
            'Let it give arrays, or write output = "NAME.txt" or "NAME.jsonl".',
        )
    return {name: _stacked(name, [_array(row[name]) for row in found], PADDABLE in names, script) for name in names}


def save(o: Any, script: Path, checkpoint: Path, file: Path) -> int:
    """Write the script's data; returns how many rows. Raises TargetError, StepFailed."""
    found = [*islice(rows(o, script, checkpoint), o.samples or None)]
    if file.suffix == ".npz" and found and _texts(found[0], o.columns):
        found = _tokens(found, o, checkpoint)
    texts = [" ".join(_texts(row, o.columns)) for row in found] if file.suffix == ".txt" else []
    if not found or (file.suffix == ".txt" and not any(texts)):
        raise TargetError(
            f"{script.name}: its data has no {'texts' if found else 'samples'}.",
            "The function gives nothing, columns name none of its own, or there are fewer tokens than one row has.",
            "Look at what it reads.",
        )
    if file.suffix == ".npz":
        np.savez(file, **_arrays(found, script))  # type: ignore[arg-type]
    elif file.suffix == ".txt":
        file.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    else:
        plain = ({name: value for name, value in row.items() if isinstance(value, str | int | float)} for row in found)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain), "utf-8")
    return len(found)
