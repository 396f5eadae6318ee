"""`data_configs`: which file a pass is calibrated with or a check reads, and how much of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Refusal, Told
from onnxmake.olive.workflow import flat, known, table, wrong

KEYS = {"name", "type", "user_script", "script_dir", "components", "params_config"}
OF_MODEL = "__input_model_data_config__"  # what older workflows call the data set of hf_config
PARTS = ("load_dataset_config", "pre_process_data_config", "post_process_data_config", "dataloader_config")


def inside(where: str, item: str, given: Any, folder: Path) -> str:
    """A file that a workflow names, in its own folder or below. Raises TargetError."""
    if not isinstance(given, str):
        raise wrong(where, item, given, "the name of a file")
    path = (folder / given).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise TargetError(
            f"{where}: {item} = {given!r} lies outside the workflow's folder.",
            "A workflow that came from elsewhere could read any file of this machine.",
            "Put the file beside the workflow.",
        )
    if not path.is_file():
        raise TargetError(
            f"{where}: {item} = {given!r} is no file.", "Files are looked for beside the workflow.", "Correct the name."
        )
    return Path(given).as_posix()


def text_of(
    where: str,
    folder: Path,
    configs: Mapping[str, Mapping[str, Any]],
    name: str,
    told: Told,
    made: Callable[..., tuple[str | None, Settings]],
    end: str = ".npz",
) -> tuple[str | None, Settings]:
    """The file of a data config, none where it is a data set of the hub; samples, and tokens of each. `made`: of one with a script,
    whose file ends with `end`. Raises TargetError, Refusal."""
    item = f"data_configs.{name}"
    if name == OF_MODEL:
        told.note(item, "the model's data set is not fetched: the text that comes along stands for it")
        return None, {}
    if name not in configs:
        raise TargetError(
            f"{where}: {name!r} is not in data_configs.",
            "A typing error, or it is missing there.",
            nearest(name, configs),
        )
    config = configs[name]
    known(where, item, config, {*KEYS, *PARTS})
    parts = {part: flat(config.get(part) or {}, "params", where, f"{item}.{part}") for part in PARTS}
    load = table(where, f"{item}.params_config", config.get("params_config") or {}) | parts["load_dataset_config"]
    process = parts["pre_process_data_config"]
    amount = {
        "samples": process.get("max_samples") or load.get("max_samples"),
        "tokens": process.get("max_seq_len") or load.get("seq_len"),
    }
    if config.get("user_script") or config.get("script_dir"):
        known_amount = {option: number for option, number in amount.items() if type(number) is int}
        file, taken = made(item, config, parts | {"load_dataset_config": load}, end, known_amount)
        if file is None:
            told.note(
                item,
                "what its script makes are numbers, and a check reads texts: the one that comes along stands for them",
            )
        return file, taken
    given = load.get("data_files")
    files = given if isinstance(given, list) else [given] if given else []
    if isinstance(given, dict) or len(files) > 1:
        raise Refusal(f"{item}: several files", "Join them into one.")
    if not files:
        told.note(
            item,
            f'{load.get("data_name", "the data")} is not fetched: the text that comes along stands for it; calibration = "FILE" names another',
        )
    found = inside(where, f"{item}.data_files", files[0], folder) if files else None
    return found, {option: number for option, number in amount.items() if type(number) is int}
