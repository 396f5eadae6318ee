"""Fixtures shared by the tests."""

import functools
import gc
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from builder import Builder

from onnxmake.build import digest, locks, paths, process, store
from onnxmake.build.files import read_record

pytest_plugins = ["publishing"]

gc.set_threshold(50_000, 20, 50)  # torch traces in millions of objects that live as long as the trace
os.environ.setdefault("OMP_WAIT_POLICY", process.FIXED["OMP_WAIT_POLICY"])  # before torch is there
os.environ.setdefault("NUMBA_CACHE_DIR", process.kernel_cache("cpu"))  # kernels are compiled once for tests and steps

TINY = ("tiny-fp32-cpu", "tiny-int4-cpu", "tiny-int8-cpu", "tiny-int4-cuda", "tiny-int4-directml", "tiny-int4-webgpu")


def pytest_collection_modifyitems(items):
    """Files with long tests first, then those with many: no worker ends alone with one."""
    counts = Counter(item.path for item in items)
    slow = {item.path for item in items for name in ("slow", "docker") if item.get_closest_marker(name)}
    items.sort(key=lambda item: (item.path not in slow, -counts[item.path], item.path))


@pytest.fixture
def output(tmp_path, monkeypatch):
    """A folder of the test's own for what builds write: build/, dist/ and the cache, with its digest database."""
    folder = tmp_path / "output"
    for name, value in {
        "OUTPUT": folder,
        "BUILD": folder / "build",
        "DIST": folder / "dist",
        "CACHE": folder / "cache",
    }.items():
        monkeypatch.setattr(paths, name, value)
    digest._database.cache_clear()
    digest._many.cache_clear()
    yield folder
    if digest._database.cache_info().currsize:
        digest._database().close()
    digest._database.cache_clear()
    digest._many.cache_clear()
    locks._remove_own()
    locks._own.clear()


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """name -> (checkpoint folder, captured graph file) of a twin, made once for all workers."""
    from test_twins import capture_twin  # torch: for those that ask
    from twins import make_twin

    from onnxmake.model import canonical

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "twins"
    shared.mkdir(exist_ok=True)

    @functools.cache
    def make(name: str) -> tuple[Path, Path]:
        folder = shared / name
        if not folder.exists():
            made = Path(tempfile.mkdtemp(dir=shared))
            canonical.save(capture_twin(make_twin(name, made / "checkpoint")), made / "graph.onnx")
            try:
                made.rename(folder)
            except OSError:  # another worker's was there first
                shutil.rmtree(made)
        return folder / "checkpoint", folder / "graph.onnx"

    return make


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Path:
    """What doit writes for the shipped tiny targets, built once through the user's own store."""
    builder = Builder(tmp_path_factory.mktemp("untouched"))
    builder.run(*(f"build:{name}" for name in TINY))
    return builder.output


@pytest.fixture(scope="session")
def built(untouched, tmp_path_factory) -> Builder:
    """The shipped tiny targets built, where tests go on to run doit."""
    return Builder(shutil.copytree(untouched, tmp_path_factory.mktemp("built"), dirs_exist_ok=True))


@pytest.fixture
def delivered(untouched, output):
    """The shipped tiny targets as this process's own output, with a store to read from."""
    paths.CACHE.mkdir(parents=True)
    for shared in ("envs", "numba", "store"):
        (paths.CACHE / shared).symlink_to(Builder.cache / shared)
    for name in ("build", "dist"):
        shutil.copytree(untouched / name, output / name, ignore=shutil.ignore_patterns(locks.WORKING))
    return output


@pytest.fixture(scope="session")
def captured(built) -> Path:
    """The embedded model's graph of semantic ops."""
    (manifest,) = (built.output / "build" / "steps").glob("export-*.json")
    return store.located(read_record(manifest)["files"]["model.onnx"][0])
