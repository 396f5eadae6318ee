"""The files of a release: those of its one target, or of several an ONNX Runtime model package, a variant for each device.

The package's form: model_package/README.md and onnxruntime/core/session/model_package/README.md of microsoft/onnxruntime (schema 1.0,
read through OrtApi::GetModelPackageApi), docs of model packages of microsoft/onnxruntime-genai (one component, named model by convention).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.build.device import device
from onnxmake.build.files import digest_text, place
from onnxmake.errors import TargetError
from onnxmake.release.part import Part

MANIFEST, CONFIG, GRAPH = "manifest.json", "genai_config.json", "model.onnx"
ONE_S_OWN = (CONFIG, ".onnx", ".data")  # how names end of what each variant has for itself; the rest is the tokenizer's


@dataclass(frozen=True)
class File:
    """Where it comes from, or its text."""

    digest: str  # sha256, in hex
    size: int
    origin: Path | str

    def write(self, path: Path) -> None:
        if isinstance(self.origin, Path):
            place(self.origin, path, link=False)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.origin, "utf-8", newline="\n")


def _file(part: Part, name: str) -> File:
    return File(*part.files[name], paths.DIST / part.name / name)


def _json(value: Any) -> File:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return File(digest_text(text), len(text.encode()), text)


def tokenizer(parts: Sequence[Part]) -> str | None:
    """URI of the folder of tokenizer files that all variants share: `sha256:` and the digest of its listing, a line of digest and
    name each, by name. None for one target, for other models than GenAI's, and where the files are not the same in all."""
    found = [{n: sha for n, (sha, _) in p.files.items() if not n.endswith(ONE_S_OWN)} for p in parts]
    if len(parts) == 1 or not all(p.generates for p in parts) or not found[0] or any(f != found[0] for f in found):
        return None
    return "sha256:" + digest_text("".join(f"{sha}  {name}\n" for name, sha in sorted(found[0].items())))


def asset(uri: str) -> str:
    """Where in the package the folder of this URI is."""
    return f"shared_assets/{uri.replace(':', '-')}"


def _configured(part: Part, uri: str) -> File:
    """The variant's configuration, which differs from the checked one in that it names the tokenizer's folder."""
    config = json.loads((paths.DIST / part.name / CONFIG).read_text("utf-8"))
    config["model"]["tokenizer_dir"] = uri
    return _json(config)


def _variant(part: Part) -> dict[str, Any]:
    """What the manifest says of it; GenAI asks for no more than `ep`, ONNX Runtime's own sessions for the graph's name."""
    if not device(part.device).ep:
        raise TargetError(
            f"containers/{part.device}/device.toml has no ep.",
            "A variant of a model package is found by what ONNX Runtime calls its execution provider.",
            'Add ep = "...ExecutionProvider".',
        )
    return {"ep": device(part.device).ep, "executor_info": {"ort": {"model_file": GRAPH}}}


def contents(name: str, parts: Sequence[Part]) -> Mapping[str, File]:
    """Name in the release -> file, by name. Raises TargetError."""
    if len(parts) == 1:
        return {n: _file(parts[0], n) for n in parts[0].files}
    uri = tokenizer(parts)
    variants = {
        part.device: _variant(part) for part in parts
    }  # declared in the manifest: their folders are at its side
    manifest = {"schema_version": "1.0", "package_name": name, "components": {"model": {"variants": variants}}}
    out = {MANIFEST: _json(manifest)}
    for part in parts:
        for n in part.files:
            if uri and not n.endswith(ONE_S_OWN):
                out[f"{asset(uri)}/{n}"] = _file(part, n)
            else:
                out[f"{part.device}/{n}"] = _configured(part, uri) if uri and n == CONFIG else _file(part, n)
    return dict(sorted(out.items()))
