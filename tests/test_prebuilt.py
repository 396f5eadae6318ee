"""The graphs that travel with the checkout are what export makes of the shipped targets today."""

import json

import pytest

from onnxmake.build import execute, key, paths, prebuilt, store
from onnxmake.build.files import read_record
from onnxmake.model import canonical
from onnxmake.model.capture import capture
from onnxmake.model.skeleton import make_skeleton

NAMES = [target.name for target, _ in prebuilt.exports()]
CONFIGS = {prebuilt.config_of(target).name for target, _ in prebuilt.exports() if target.source.repo}


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_is_there_under_todays_key_and_holds_todays_graph(output, tmp_path, name):
    target, step = next((t, s) for t, s in prebuilt.exports() if t.name == name)
    if target.source.path is None:
        make_skeleton(prebuilt.config_of(target), step.checkpoint.folder, random=False)
    execute.make_source(step.checkpoint)
    entry = store.find(key.digest(key.explain(step)))
    assert entry is not None and entry.layer == store.PREBUILT, "stale: run doit prebuilt"
    folder = step.checkpoint.manifest.parent
    canonical.save(
        capture(*(json.loads((folder / f).read_text()) for f in ("architecture.json", "tensors.json"))),
        tmp_path / "model.onnx",
    )
    assert (tmp_path / "model.onnx").read_bytes() == store.object_path(
        store.PREBUILT, entry.files["model.onnx"][0]
    ).read_bytes()


def test_nothing_else_is_in_the_folder():
    layer = store.PREBUILT
    entries = [read_record(p) for p in (layer / "entries").iterdir()]
    used = {sha for e in entries for sha, _ in e["files"].values()}
    assert {p.name for p in (layer / "objects").rglob("*") if p.is_file()} == used
    assert all(p.stat().st_size < 1_000_000 for p in layer.rglob("*"))
    assert {p.name for p in layer.glob("*.json")} == CONFIGS
    assert str(paths.ROOT) not in "".join(p.read_text() for p in (layer / "entries").iterdir())
