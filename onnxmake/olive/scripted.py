"""Data that a script of the workflow prepares: a run_script pass in front of all others, whose file the reading pass names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxmake.build import scripts
from onnxmake.build.dataset import MADE
from onnxmake.build.schema import plain
from onnxmake.olive.data import inside, template_of
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Refusal
from onnxmake.olive.workflow import wrong

INSTEAD = "Or save what it prepares as a file beside the workflow, for data_files."
OLDER = ("data_dir", "batch_size", "dataloader_func_kwargs")  # what older workflows say beside dataloader_func
COMPONENTS = {
    "load_dataset": "load_dataset_config",
    "pre_process": "pre_process_data_config",
    "dataloader": "dataloader_config",
}
OLIVES = (
    "",
    "pre_process",
    "huggingface_pre_process",
    "text_generation_huggingface_pre_process",
)  # leave rows of texts


@dataclass(frozen=True)
class Scripts:
    """What scripts of a workflow make, and what is said of it anywhere: the file as messages name it, its folder, the model's name."""

    where: str
    folder: Path
    model: str
    made: dict[str, dict[str, Any]] = field(default_factory=dict)  # FILE -> options of the run_script that makes it

    def named(self, options: dict[str, Any]) -> str:
        """How a pass names what run_script with these options makes."""
        self.made[options["output"]] = options
        return f"{MADE}{options['output']}"


def allow(script: Any, instead: str = INSTEAD) -> None:
    """Raises Refusal where scripts may not run."""
    if not scripts.allowed():
        raise Refusal(f"the script {script} would run code of its own", f"{scripts.ALLOW} {instead}".rstrip())


def script_of(given: Mapping[str, Any], item: str, of: Scripts) -> str:
    """The script, relative to the workflow: by its own name, or that in script_dir. Raises TargetError."""
    name, place = given.get("user_script"), given.get("script_dir")
    if isinstance(name, str) and isinstance(place, str) and not (of.folder / name).is_file():
        name = (Path(place) / name).as_posix()
    return inside(of.where, f"{item}.user_script", name, of.folder)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null: a script's arguments are None unless given."""
    return {name: plain(value) for name, value in settings.items() if value is not None}


def from_config(
    of: Scripts,
    generates: bool,
    item: str,
    config: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    end: str,
    taken: Settings,
) -> tuple[str | None, Settings]:
    """How a reading pass names the data of a config whose parts are flat, and what of them; the script that makes it is put into
    `of.made`. None for a text of data that the script itself turns into numbers. Raises TargetError, Refusal."""
    allow(config.get("user_script"))
    given = {option: _known(parts[part]) for option, part in COMPONENTS.items() if parts.get(part)}
    process = given.get("pre_process", {})
    own = str(process.get("type") or "").lower() not in OLIVES
    columns = process.get("input_cols") or process.get("text_cols") or []
    asked = {} if own else given.get("load_dataset", {}) | process
    template = template_of(of.where, item, asked, plain=False)
    if asked.get("text_template"):  # which none but rows of texts have
        end = ".jsonl"
    if end == ".txt" and (not (columns or generates) or own or "type" in given.get("dataloader", {})):
        return None, {}
    output = f"{item.removeprefix('data_configs.')}{end}"
    options: dict[str, Any] = {"script": script_of(config, item, of), "output": output, "model": of.model}
    options |= {"load_dataset": {}} | given
    options |= {"columns": [columns] if isinstance(columns, str) else columns} if columns else {}
    tokens = process.get("max_length") or process.get("max_seq_len")
    options |= {"tokens": tokens} if type(tokens) is int else {}
    options |= {"padded": False} if generates and end == ".npz" else {}
    rows = {"text_template": template} if template and end == ".jsonl" else {}
    return of.named(options), {"samples": 0} | taken | rows


def from_pass(of: Scripts, item: str, options: Mapping[str, Any]) -> tuple[str, Settings]:
    """The same of a pass of an older workflow: dataloader_func(data_dir, batch_size, ...) gives batches. Raises TargetError."""
    function = options["dataloader_func"]
    if not isinstance(function, str):
        raise wrong(of.where, f"{item}.dataloader_func", function, "the name of a function in user_script")
    given = {name: options[name] for name in ("data_dir", "batch_size") if name in options}
    loader = {"type": function} | _known(given | (options.get("dataloader_func_kwargs") or {}))
    script = script_of(options, item, of)
    made = of.named({"script": script, "output": f"{function}.npz", "model": of.model, "dataloader": loader})
    return made, {"samples": 0}


def metric(of: Scripts, item: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A [[metric]] of a metric's user_config, whose evaluate_func gives it. Raises TargetError, Refusal."""
    allow(config.get("user_script"), "")
    function = config.get("evaluate_func")
    if not isinstance(function, str):
        raise Refusal(
            "metric_func is given outputs that Olive collects",
            "Let an evaluate_func run the model: run_session of what it is given.",
        )
    given = {key: config[key] for key in ("data_dir", "batch_size") if key in config}
    arguments = _known(given | (config.get("evaluate_func_kwargs") or {}))
    more = {"arguments": arguments} if arguments else {}
    return {"script": script_of(config, item, of), "evaluate": function, "name": name, "model": of.model, **more}
