"""What a workflow starts from: `input_model` as [source], and what its task asks of export and packaging."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.schema import nearest
from onnxmake.build.target import COMMIT
from onnxmake.errors import TargetError
from onnxmake.olive.border import NAMES
from onnxmake.olive.rules import Settings
from onnxmake.olive.told import Refusal, Told
from onnxmake.olive.workflow import flat, known, there, wrong

HF = {"type", "model_path", "task", "load_kwargs", "io_config", "generative", "adapter_path", "model_attributes"}
OLDER = {"hf_config", "model_file_format", "dummy_inputs_func", "model_loader", "model_script", "script_dir"}
TEST = {"test_model_path", "test_model_config"}
LOAD = {  # of from_pretrained: what is of no consequence, since weights are read from their files and each rounded once
    *(
        "torch_dtype",
        "dtype",
        "device_map",
        "max_memory",
        "low_cpu_mem_usage",
        "use_safetensors",
        "attn_implementation",
        "_attn_implementation",
    ),
    *(
        "extra_args",
        "revision",
        "trust_remote_code",
        "quantization_method",
        "quantization_config",
        "cache_dir",
        "use_cache",
    ),
    *("token", "use_auth_token", "local_files_only", "force_download", "offload_folder", "offload_state_dict"),
}
REFUSED = {
    "onnxmodel": ("it starts from an ONNX file", "Name the checkpoint that the file was made of."),
    "compositemodel": ("it starts from ONNX files", "Name the checkpoint that they were made of."),
    "distributedonnxmodel": ("it starts from ONNX files", "Name the checkpoint that they were made of."),
    "diffusersmodel": ("diffusion models are not built", "Build its text encoder from a checkpoint of its own."),
    "openvinomodel": ("it starts from OpenVINO's files", "Name the checkpoint that they were made of."),
    "qnnmodel": ("it starts from Qualcomm's files", "Name the checkpoint that they were made of."),
    "snpemodel": ("it starts from Qualcomm's files", "Name the checkpoint that they were made of."),
    "tensorflowmodel": ("TensorFlow models are not built", "Name a checkpoint with safetensors files."),
    "pytorchmodel": ("it is made by a script, or from a pickle", "Name a checkpoint: HfModel with model_path."),
}
GENERATES: Settings = {"package_genai": True}
TASKS: dict[str, Settings] = {
    **dict.fromkeys(("text-generation", "text-generation-with-past"), GENERATES),
    "feature-extraction": {"export.part": "base"},
    **dict.fromkeys(("text-classification", "token-classification", "ner", "fill-mask", "question-answering"), {}),
    **dict.fromkeys(("multiple-choice", "image-classification", "sentence-similarity", "sequence-classification"), {}),
    **dict.fromkeys(("image-feature-extraction", "object-detection", "image-segmentation", "audio-classification"), {}),
    "semantic-segmentation": {},
}
SEVERAL = {  # of several graphs -> which of them can be built
    **dict.fromkeys(
        (
            *("text2text-generation", "text2text-generation-with-past", "automatic-speech-recognition"),
            *("image-to-text", "image-text-to-text"),
        ),
        'Build its encoder: part = "encoder" of export.',
    ),
    "zero-shot-image-classification": 'Build its towers, a target for each: part = "text" and part = "vision" of export.',
}


def _path(where: str, given: Any) -> str:
    """The name of a repository or folder, also in the form of a resource. Raises TargetError, Refusal."""
    if isinstance(given, dict):
        inner = flat(given, "config", where, "input_model.model_path")
        if str(inner.get("type", "")).startswith("azureml"):
            raise Refusal(
                "input_model: models of Azure ML are not fetched", "Name the repository on the hub, or a folder."
            )
        given = inner.get("path") or inner.get("name")
    if not isinstance(given, str) or not given:
        raise wrong(where, "input_model.model_path", given, "a repository on the hub, or a folder")
    if given.startswith("azureml:"):
        raise Refusal("input_model: models of Azure ML are not fetched", "Name the repository on the hub, or a folder.")
    return given.removeprefix("https://huggingface.co/")


def repository(where: str, given: Mapping[str, Any], told: Told) -> tuple[str, str | None, Settings]:
    """Repository or folder, the revision that the workflow names, and settings of its task. Raises TargetError, Refusal."""
    model = flat(given, "config", where, "input_model")
    kind = str(model.get("type"))
    hub = model.get("hf_config")
    if kind.lower() == "pytorchmodel" and isinstance(hub, dict):
        known(where, "input_model", model, {*HF, *OLDER})
        if model.get("model_loader"):
            raise Refusal("input_model: a script loads it", "Name a checkpoint: HfModel with model_path.")
        if model.get("model_script"):
            told.note("input_model", "the script is not run: export knows the model's inputs")
        load = hub.get("load_kwargs") or hub.get("from_pretrained_args") or hub.get("model_loading_args") or {}
        model = {"model_path": hub.get("model_name"), "task": hub.get("task"), "load_kwargs": load}
    elif kind.lower() in REFUSED:
        raise Refusal(f"input_model: {REFUSED[kind.lower()][0]}", REFUSED[kind.lower()][1])
    elif kind.lower() != "hfmodel":
        names = ["HfModel", "PyTorchModel", "ONNXModel"]
        raise TargetError(
            f"{where}: input_model.type = {kind!r} is none that Olive has.", "A typing error.", nearest(kind, names)
        )
    known(where, "input_model", model, {*HF, *TEST})
    if model.get("adapter_path"):
        raise Refusal(
            "input_model: adapter_path adds an adapter of PEFT's", "Merge it into the checkpoint, and name that."
        )
    if any(model.get(name) for name in TEST):
        raise Refusal(
            "input_model: a test model has random weights", "Leave it out: doit check makes a twin with random weights."
        )
    load = model.get("load_kwargs") or {}
    if not isinstance(load, dict):
        raise wrong(where, "input_model.load_kwargs", load, "an object")
    known(where, "input_model.load_kwargs", load, LOAD)
    load = flat(load, "extra_args", where, "input_model.load_kwargs")
    if load.get("quantization_config"):
        raise Refusal("input_model: quantization_config rounds as it loads", "Use a quantising pass.")
    if load.get("trust_remote_code"):
        told.note("input_model", "code of the repository is never run: Transformers' own class is exported")
    if model.get("io_config"):
        told.note("input_model", f"io_config is not heeded: {NAMES}")
    loaded = {"load.dtype": str(load.get("torch_dtype") or load.get("dtype") or "").removeprefix("torch.")}
    return _path(where, model.get("model_path")), load.get("revision"), _task(where, model.get("task")) | loaded


def _task(where: str, given: Any) -> Settings:
    task = given or "text-generation-with-past"  # Olive's default
    if not isinstance(task, str):
        raise wrong(where, "input_model.task", given, "the name of a task")
    if task in SEVERAL:
        raise Refusal(f"input_model: a model for {task} is of several graphs", SEVERAL[task])
    if task not in TASKS:
        raise TargetError(
            f"{where}: input_model.task = {task!r} is not known.",
            "A typing error, or a task without a graph.",
            nearest(task, TASKS),
        )
    return dict(TASKS[task])


def is_local(file: Path, name: str) -> bool:
    """Whether there is a folder of that name beside the workflow: Olive decides so, too."""
    return there(file.parent / name, "is_dir")


def source(file: Path, name: str, revision: str | None) -> dict[str, str]:
    """[source]: a folder, relative to the workflow's, or a repository at a commit.

    Raises TargetError where the workflow names no commit.
    """
    where = paths.shown(file)
    if is_local(file, name):
        return {"path": name}
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name:
        raise TargetError(
            f"{where}: input_model.model_path = {name!r} is no folder.",
            "Folders are looked for beside the workflow; repositories on the hub are OWNER/NAME.",
            "Correct model_path.",
        )
    if not isinstance(revision, str) or not COMMIT.fullmatch(revision):
        raise TargetError(
            f"{where}: input_model names no commit of {name}.",
            f"{'A branch' if revision is None else repr(revision)} may change under the build.",
            f"doit import -c {where} -o targets/{file.stem}.toml, which asks the hub for it; or write 40 hex digits as revision in load_kwargs.",
        )
    return {"repo": name, "revision": revision}
