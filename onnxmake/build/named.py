"""Files that the options of a pass name: where they are, and as what a step sees them."""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from onnxmake.build import dataset, like, paths, scripts
from onnxmake.errors import TargetError


def staged(options: Any, beside: Path, where: str, names: Collection[str] = like.FILES) -> tuple[Any, dict[str, Any]]:
    """Options with the files that those of `names` name as a step sees them, and `files`, `hub` and `made` of a Use: where those are,
    relative to the target file or, for an empty name, the text that comes with the program; which are to be fetched; which a script
    has yet to make. Raises TargetError."""
    files: dict[str, Path] = {}
    hub: dict[str, str] = {}
    made: tuple[str, ...] = ()
    for name in (f.name for f in fields(options) if f.name in names and f.name in like.FILES):
        value = getattr(options, name)
        if value.startswith(dataset.MADE) and name in dataset.OPTIONS:
            made += (value.removeprefix(dataset.MADE),)
            options = replace(options, **{name: f"checkpoint/{made[-1]}"})
            continue
        path = (beside / value).resolve() if value else paths.TEXTS / f"{name}.txt"
        if "://" in value and name in dataset.OPTIONS:
            dataset.check(where, name, value)
            path = dataset.place(value)
            hub[name + path.suffix] = value
        elif not path.is_file():
            raise TargetError(
                f"{where}: {name} = {value!r} is no file.",
                f"Files are looked for beside the target: {paths.shown(path)}.",
                "Correct the name.",
            )
        seen = name + path.suffix
        if name == "script":
            seen = f"{scripts.FOLDER}/{path.name}"
            files |= scripts.beside(path, [v for v in vars(options).values() if isinstance(v, dict)])
        else:
            files[seen] = path
        options = replace(options, **{name: seen})
    return options, {"files": files, "hub": hub, "made": made}


def without(use: Any, names: Collection[str]) -> dict[str, Any]:
    """`files`, `hub` and `made` of a Use without what these of its options name."""
    seen = {getattr(use.options, name) for name in names}

    def stays(name: str) -> bool:
        of_script = "script" in names and name.startswith(f"{scripts.FOLDER}/")
        return name not in seen and f"checkpoint/{name}" not in seen and not of_script

    def kept(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in mapping.items() if stays(name)}

    return {"files": kept(use.files), "hub": kept(use.hub), "made": tuple(filter(stays, use.made))}
