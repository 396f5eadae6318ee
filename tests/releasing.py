"""A release of a few bytes, with papers that its receiver takes, made without a build."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

from onnxmake.build import paths
from onnxmake.release import oci, sums
from onnxmake.release.found import Released

NAME = "tiny-int4-cpu"
WEIGHTS = "model.onnx.data"
MODEL = {
    "genai_config.json": b'{"model": {}}',
    "model.onnx": b"\x08\x0a" * 300,
    WEIGHTS: random.Random(0).randbytes(50_000),
}


def make_release(version: str = "1.0.0", name: str = NAME, **changed: bytes) -> Released:
    """dist/releases/NAME-VERSION and its layout. `changed`: other bytes for `weights`."""
    folder = paths.DIST / "releases" / f"{name}-{version}"
    folder.mkdir(parents=True)
    for file, content in (MODEL | ({WEIGHTS: changed["weights"]} if changed else {})).items():
        (folder / file).write_bytes(content)
    digests = {file: sums.digest(folder / file) for file in MODEL}
    parts = [{"type": "file", "name": n, "hashes": [{"alg": "SHA-256", "content": d}]} for n, d in digests.items()]
    bom = {"metadata": {"component": {"name": name, "version": version}}, "components": parts}
    (folder / sums.BOM).write_text(json.dumps(bom))
    subjects = [{"name": n, "digest": {"sha256": d}} for n, d in digests.items()]
    (folder / sums.PROVENANCE).write_text(json.dumps({"subject": subjects}))
    (folder / sums.CARD).write_text(f"---\nlicense: mit\n---\n# {name}\n")
    sums.write(folder)
    facts = SimpleNamespace(name=name, version=version, licence={"license": "mit"}, config={})
    oci.lay_out(facts, folder, folder.with_name(f"{folder.name}.oci"))
    return Released(name, version, folder)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
