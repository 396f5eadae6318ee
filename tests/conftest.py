"""Fixtures shared by the tests."""

import pytest
from builder import Builder

from onnxmake.build import digest, locks, paths

TINY = ("tiny-fp32-cpu", "tiny-int4-cpu", "tiny-int8-cpu", "tiny-int4-cuda", "tiny-int4-directml")


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
def built(tmp_path_factory) -> Builder:
    """The shipped tiny targets, built once through the user's own store."""
    builder = Builder(tmp_path_factory.mktemp("built"))
    builder.run(*(f"build:{name}" for name in TINY))
    return builder
