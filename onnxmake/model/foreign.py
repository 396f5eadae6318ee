"""What a folder or repository that is no checkpoint holds instead, by the names of its files. Standard library only: the host says it, too."""

from collections.abc import Collection
from fnmatch import fnmatchcase

SAFETENSORS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BASE = "Name the repository or folder of the safetensors checkpoint that it was made of."
FOREIGN = {  # the first glob that a name matches -> cause, next action
    "model_index.json": ("It is a pipeline of Diffusers, of several models.", "Diffusion models are not built."),
    "adapter_config.json": (
        "It is an adapter of PEFT, which changes another model.",
        "Name that model, and add import_adapter to the target that is written.",
    ),
    "*.gguf": ("It is a GGUF model of llama.cpp.", BASE),
    "*.onnx": ("It is an ONNX model already, and a build starts from a checkpoint.", BASE),
    "*.mlmodel*": ("It is a model of Core ML.", BASE),
    "consolidated*.safetensors": (
        "Its weights have names of their maker's own, not those of Transformers.",
        "Choose a repository with model.safetensors.",
    ),
    "*.bin": (
        "Its weights are pickles, which may run code when they are read.",
        "Choose a revision with safetensors; or load it where you trust it, and save_pretrained() it.",
    ),
}
FOREIGN |= {pattern: FOREIGN["*.bin"] for pattern in ("*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")}


def weights_of(names: Collection[str]) -> list[str]:
    """The files of a checkpoint's weights, as `safetensors.read_checkpoint` chooses them: one, or the shards of an index."""
    if SAFETENSORS in names:
        return [SAFETENSORS]
    return sorted(
        name for name in names if INDEX in names and fnmatchcase(name, "model-*.safetensors") and "/" not in name
    )


def instead(names: Collection[str], lacking: str) -> tuple[str, str]:
    """What it is, and what to do; `lacking` names what was looked for."""
    found = [
        told for pattern, told in FOREIGN.items() if any(fnmatchcase(n.rsplit("/", 1)[-1], pattern) for n in names)
    ]
    below = sorted(name.rpartition("/")[0] for name in names if name.endswith("/config.json"))
    if found:
        return found[0]
    if below and lacking == "config.json":
        return (
            f"The checkpoint is in {below[0]}, a folder below.",
            "Give that folder; of a repository, once it is fetched.",
        )
    return "It is not a Hugging Face checkpoint, or one folder above or below it.", f"Give one with {lacking}."
