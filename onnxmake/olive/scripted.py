"""Data that a script of the workflow prepares: a run_script pass in front of all others, whose file the reading pass names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import scripts
from onnxmake.build.schema import plain
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Refusal
from onnxmake.olive.workflow import wrong

Scripted = dict[str, dict[str, Any]]  # FILE -> options of the run_script that makes it
INSTEAD = (
    "Or save what it prepares as a file beside the workflow, for data_files, and let [check] limit what it evaluates."
)
OLDER = (
    "data_dir",
    "batch_size",
    "dataloader_func_kwargs",
)  # what a pass of older workflows says beside dataloader_func
COMPONENTS = {
    "load_dataset": "load_dataset_config",
    "pre_process": "pre_process_data_config",
    "dataloader": "dataloader_config",
}


def allow(script: Any) -> None:
    """Raises Refusal where scripts may not run."""
    if not scripts.allowed():
        raise Refusal(f"the script {script} would run code of its own", f"{scripts.ALLOW} {INSTEAD}")


def script_of(where: str, item: str, given: Mapping[str, Any], folder: Path) -> str:
    """The script, relative to the workflow: by its own name, or that in script_dir. Raises TargetError."""
    from onnxmake.olive.data import inside

    name, place = given.get("user_script"), given.get("script_dir")
    if isinstance(name, str) and isinstance(place, str) and not (folder / name).is_file():
        name = (Path(place) / name).as_posix()
    return inside(where, f"{item}.user_script", name, folder)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null: a script's arguments are None unless given."""
    return {name: plain(value) for name, value in settings.items() if value is not None}


def from_config(
    made: Scripted,
    where: str,
    folder: Path,
    model: str,
    generates: bool,
    item: str,
    config: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    end: str,
    amount: Settings,
) -> tuple[str | None, Settings]:
    """How a reading pass names the data of a config whose parts are flat, and how much of it; the script that makes it is put into
    `made`. None for a text of data that the script itself turns into numbers. Raises TargetError, Refusal."""
    allow(config.get("user_script"))
    script = script_of(where, item, config, folder)
    given = {option: _known(parts[part]) for option, part in COMPONENTS.items() if parts.get(part)}
    process = given.get("pre_process", {})
    columns = process.get("input_cols") or process.get("text_cols") or []
    if end == ".txt" and (not (columns or generates) or "type" in process or "type" in given.get("dataloader", {})):
        return None, {}
    options: dict[str, Any] = {"script": script, "output": f"{item.removeprefix('data_configs.')}{end}", "model": model}
    options |= {"load_dataset": {}} | given
    options |= {"columns": [columns] if isinstance(columns, str) else columns} if columns else {}
    tokens = process.get("max_length") or process.get("max_seq_len")
    options |= {"tokens": tokens} if type(tokens) is int else {}
    options |= {"padded": False} if generates and end == ".npz" else {}
    return _named(made, options), {"samples": 0} | amount


def from_pass(
    made: Scripted, where: str, folder: Path, model: str, item: str, options: Mapping[str, Any]
) -> tuple[str, Settings]:
    """The same of a pass of an older workflow: dataloader_func(data_dir, batch_size, ...) gives batches. Raises TargetError."""
    function = options["dataloader_func"]
    if not isinstance(function, str):
        raise wrong(where, f"{item}.dataloader_func", function, "the name of a function in user_script")
    given = {name: options[name] for name in ("data_dir", "batch_size") if name in options}
    given |= options.get("dataloader_func_kwargs") or {}
    script = script_of(where, item, options, folder)
    loader = {"type": function} | _known(given)
    return _named(made, {"script": script, "output": f"{function}.npz", "model": model, "dataloader": loader}), {
        "samples": 0
    }


def metric(where: str, folder: Path, model: str, item: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A [[metric]] of a metric's user_config, whose evaluate_func gives it. Raises TargetError, Refusal."""
    allow(config.get("user_script"))
    script, function = script_of(where, item, config, folder), config.get("evaluate_func")
    if not isinstance(function, str):
        raise Refusal(
            "metric_func is given outputs that Olive collects",
            "Let an evaluate_func run the model: run_session of what it is given.",
        )
    given = {key: config[key] for key in ("data_dir", "batch_size") if key in config}
    arguments = _known(given | (config.get("evaluate_func_kwargs") or {}))
    more = {"arguments": arguments} if arguments else {}
    return {"script": script, "evaluate": function, "name": name, "model": model, **more}


def limit(sub: Mapping[str, Any]) -> dict[str, float]:
    """The gate that a goal is, by name: of one that says a value of its own."""
    goal = sub.get("goal") or {}
    if not isinstance(goal, dict) or goal.get("type") != "threshold" or type(goal.get("value")) not in (int, float):
        return {}
    side = "max" if sub.get("higher_is_better") is False else "min"
    return {f"{side}_{sub['name']}": float(goal["value"])}


def _named(made: Scripted, options: dict[str, Any]) -> str:
    made[options["output"]] = options
    return f"{scripts.MADE}{options['output']}"
