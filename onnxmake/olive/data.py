"""`data_configs`: which file a pass is trained or calibrated with or a check reads, and what of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmake.build.dataset import PLAIN
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError
from onnxmake.olive import hub
from onnxmake.olive.hub import OnHub
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Refusal, Told
from onnxmake.olive.workflow import flat, known, table, there, wrong

KEYS = {"name", "type", "user_script", "script_dir", "components", "params_config"}
OF_MODEL = "__input_model_data_config__"  # what older workflows call the data set of hf_config
PARTS = ("load_dataset_config", "pre_process_data_config", "post_process_data_config", "dataloader_config")


def inside(where: str, item: str, given: Any, folder: Path) -> str:
    """A file that a workflow names, in its own folder or below. Raises TargetError."""
    if not isinstance(given, str):
        raise wrong(where, item, given, "the name of a file")
    try:
        path = (folder / given).resolve()
    except (OSError, ValueError, RuntimeError):  # a zero in it; a link to itself
        raise wrong(where, item, given, "the name of a file") from None
    if not path.is_relative_to(folder.resolve()):
        raise TargetError(
            f"{where}: {item} = {given!r} lies outside the workflow's folder.",
            "A workflow that came from elsewhere could read any file of this machine.",
            "Put the file beside the workflow.",
        )
    if not there(path):
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
) -> tuple[str | OnHub | None, Settings]:
    """The file or data set of a data config, none where it names none; samples, tokens of each, template of rows. `made`: of one with a
    script, whose file ends with `end`. Raises TargetError, Refusal."""
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
    taken: Settings = {option: number for option, number in amount.items() if type(number) is int}
    if config.get("user_script") or config.get("script_dir"):
        file, taken = made(item, config, parts | {"load_dataset_config": load}, end, taken)
        if file is None:
            told.note(
                item,
                "what its script makes are numbers, and a check reads texts: the one that comes along stands for them",
            )
        return file, taken
    if isinstance(local := load.get("data_name"), str) and local and there(folder / local, "is_dir"):
        raise Refusal(f"{item}: {local} is a folder", 'Name a file in it: data_name "json", and data_files.')
    found: str | OnHub | None = hub.named(where, item, load, told)
    if found is None:
        given = load.get("data_files")
        files = given if isinstance(given, list) else [given] if given else []
        if isinstance(given, dict) or len(files) > 1:
            raise Refusal(f"{item}: several files", "Join them into one.")
        if not files:
            told.note(
                item, 'it names no data: the text that comes along stands for it; calibration = "FILE" names another'
            )
            return None, taken
        found = inside(where, f"{item}.data_files", files[0], folder)
    if str(process.get("strategy")).startswith("line"):
        told.note(item, "texts are read one after the other, not each by itself")
    if template := template_of(where, item, load | process, isinstance(found, str) and bool(PLAIN.fullmatch(found))):
        taken["text_template"] = template
    return found, taken


def template_of(where: str, item: str, given: Mapping[str, Any], plain: bool) -> str:
    """Of rows' text; "" is the column text, and what a plain text has. Raises TargetError, Refusal."""
    if given.get("chat_template"):
        raise Refusal(
            f"{item}: chat_template formats messages", "Save the formatted texts as .jsonl, or write text_template."
        )
    if (template := given.get("text_template")) is not None:
        if not isinstance(template, str):
            raise wrong(where, f"{item}.text_template", template, "a string with columns in braces")
        return template
    columns = given.get("text_cols") or given.get("input_cols") or []
    columns = [columns] if isinstance(columns, str) else columns
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise wrong(where, f"{item}.text_cols", columns, "names of columns")
    return "" if plain or columns == ["text"] else " ".join(f"{{{name}}}" for name in columns)
