"""The store: what is committed comes back, whole or not at all."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmake.build import files, paths, store
from onnxmake.build.digest import digest_text
from onnxmake.errors import StoreError

FILES = {"model.onnx": b"graph", "data/weights.bin": b"\0\1" * 99, "data/again.bin": b"\0\1" * 99, "empty": b""}
LOCKED = """
import sys, time
from pathlib import Path
from onnxmake.build import paths, store
paths.CACHE, name, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if other:
    while not (paths.CACHE / f"{other}.holds").exists():
        time.sleep(0.01)
(paths.CACHE / f"{name}.asks").touch()
with store.locked("key"), open(paths.CACHE / "order", "a") as order:
    print(name, "in", file=order, flush=True)
    (paths.CACHE / f"{name}.holds").touch()
    if not other:
        while not (paths.CACHE / "second.asks").exists():
            time.sleep(0.01)
        time.sleep(0.3)
    print(name, "out", file=order, flush=True)
"""
SEGMENT = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda s: s not in (".", "..")
)
TREE = st.recursive(st.binary(max_size=64), lambda inner: st.dictionaries(SEGMENT, inner, max_size=4), max_leaves=12)
counter = itertools.count()


def write(folder: Path, content) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def commit(content=FILES, name="key", known=None, layer=None) -> store.Entry:
    with store.workspace() as work:
        return store.commit(name, {"leaf": 1}, write(work / "out", content), 1.25, known or {}, layer)


def objects() -> list[Path]:
    return [p for p in (paths.CACHE / "store" / "objects").rglob("*") if p.is_file()]


@pytest.mark.parametrize("link", [True, False])
def test_what_is_committed_is_found_and_laid_out_again(output, tmp_path, link):
    entry = commit()
    assert store.find("key") == entry
    assert store.find("other") is None
    store.lay_out(entry.files, tmp_path / "copy", link)
    assert read(tmp_path / "copy") == FILES


def test_an_entry_records_the_key_s_document_and_the_files(output):
    entry = commit()
    record = json.loads(store.entry_path(entry.layer, "key").read_text("utf-8"))
    assert record == {
        "key": {"leaf": 1},
        "seconds": 1.25,
        "files": {name: [digest_text(data.decode("latin-1")), len(data)] for name, data in FILES.items()},
    }


def test_objects_are_read_only_and_equal_files_are_one(output):
    commit()
    assert len(objects()) == len(set(FILES.values()))
    assert all(p.stat().st_mode & 0o777 == 0o444 for p in objects())


def test_laid_out_links_share_the_object_and_copies_do_not(output, tmp_path):
    entry = commit()
    store.lay_out(entry.files, tmp_path / "links", link=True)
    store.lay_out(entry.files, tmp_path / "copies", link=False)
    for name, (sha, _) in entry.files.items():
        kept, link, copy = (
            p.stat()
            for p in (store.object_path(entry.layer, sha), tmp_path / "links" / name, tmp_path / "copies" / name)
        )
        assert (link.st_dev, link.st_ino) == (kept.st_dev, kept.st_ino)
        assert copy.st_ino != kept.st_ino
        assert (copy.st_nlink, copy.st_mode & 0o777) == (1, 0o644)


def test_copies_can_be_read_by_others_whatever_the_umask(output, tmp_path):
    entry = commit()
    before = os.umask(0o077)
    try:
        store.lay_out(entry.files, tmp_path / "copies", link=False)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "copies").rglob("*") if p.is_file()} == {0o644}


def test_a_laid_out_copy_may_be_changed_without_harm(output, tmp_path):
    entry = commit()
    store.lay_out(entry.files, tmp_path / "copy", link=False)
    (tmp_path / "copy" / "model.onnx").write_bytes(b"edited")
    store.lay_out(entry.files, tmp_path / "again", link=False)
    assert read(tmp_path / "again") == FILES


def test_files_are_copied_where_the_file_system_has_no_links(output, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    store.lay_out(commit().files, tmp_path / "copy", link=True)
    assert read(tmp_path / "copy") == FILES


def test_an_interrupted_commit_leaves_no_entry_and_the_next_one_works(output, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomically", stop)
        with pytest.raises(KeyboardInterrupt):
            commit()
    assert objects()
    assert not store.entry_path(paths.CACHE / "store", "key").exists()
    assert store.find("key") is None
    assert commit() == store.find("key")


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda p: os.truncate(p, 2), lambda p: p.write_bytes(b"much longer than it was")],
    ids=["missing", "cut off", "grown"],
)
def test_a_missing_or_resized_object_is_a_miss_and_a_new_commit_repairs_it(output, tmp_path, damage):
    entry = commit()
    hurt = store.object_path(entry.layer, entry.files["model.onnx"][0])
    hurt.chmod(0o644)
    damage(hurt)
    assert store.find("key") is None
    store.lay_out(commit().files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == FILES
    assert store.find("key") == entry


def test_a_lost_object_is_an_error_with_advice_when_files_are_laid_out(output, tmp_path):
    entry = commit()
    store.object_path(entry.layer, entry.files["model.onnx"][0]).unlink()
    with pytest.raises(StoreError, match="model.onnx") as caught:
        store.lay_out(entry.files, tmp_path / "copy", link=True)
    assert "Build again" in caught.value.action


def test_a_second_layer_is_read_but_not_written(output, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PREBUILT", tmp_path / "prebuilt")
    entry = commit(layer=tmp_path / "prebuilt")
    assert not objects()
    assert store.find("key") == entry
    store.lay_out(entry.files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == FILES
    assert commit().layer == paths.CACHE / "store"
    assert store.find("key").layer == paths.CACHE / "store"


def test_an_entry_copied_to_another_layer_stands_without_the_first(output, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PREBUILT", tmp_path / "prebuilt")
    entry = commit()
    for _ in range(2):
        store.copy(entry, store.PREBUILT)
    shutil.rmtree(entry.layer)
    assert store.find("key").files == entry.files
    store.lay_out(entry.files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == FILES


def test_files_handed_through_are_not_read_again(output, monkeypatch):
    entry = commit({"model.onnx": b"graph"}, "first")

    def refuse(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(store, "digest_file", refuse)
    with store.workspace() as work:
        store.lay_out(entry.files, work / "src", link=True)
        stat = (work / "src" / "model.onnx").stat()
        (work / "out").mkdir()
        os.link(work / "src" / "model.onnx", work / "out" / "renamed.onnx")
        second = store.commit("second", {}, work / "out", 0, {(stat.st_dev, stat.st_ino): entry.files["model.onnx"][0]})
    assert second.files == {"renamed.onnx": entry.files["model.onnx"]}
    assert store.find("second") == second
    with pytest.raises(AssertionError, match="was read"):
        commit({"new": b"new"}, "third")


def test_a_workspace_is_gone_afterwards_even_after_an_error(output):
    with pytest.raises(KeyError), store.workspace() as work:
        write(work, FILES)
        raise KeyError
    assert not work.exists()


def test_workspaces_of_dead_processes_are_swept_and_those_of_live_ones_kept(output):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    parent = paths.CACHE / "tmp"
    dead, nobody, mine, init = (parent / name for name in (f"{process.pid}-1", "stray", f"{os.getpid()}-1", "1-1"))
    for folder in (dead, nobody, mine, init):
        write(folder, FILES)
    with store.workspace() as work:
        assert work.parent == parent
        assert sorted(parent.iterdir()) == sorted([mine, init, work])


def test_a_second_process_waits_until_the_first_lets_go(output):
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", LOCKED, str(paths.CACHE), *names], env=environment)
        for names in (("first", ""), ("second", "first"))
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (paths.CACHE / "order").read_text().splitlines() == ["first in", "first out", "second in", "second out"]


def test_locks_of_different_keys_do_not_wait_for_each_other(output):
    with store.locked("one"), store.locked("two"):
        assert sorted(p.name for p in (paths.CACHE / "locks").iterdir()) == ["one", "two"]


@pytest.mark.parametrize(
    "number, cause, action",
    [
        (errno.ENOSPC, "disk is full", "Free space"),
        (errno.EDQUOT, "quota", "Free space"),
        (errno.EROFS, "read-only", "ONNXMAKE_CACHE"),
        (errno.EACCES, "may not write", "ONNXMAKE_CACHE"),
        (errno.EIO, "operating system", "message above"),
    ],
)
def test_a_refusal_of_the_operating_system_becomes_an_error_with_cause_and_advice(
    output, monkeypatch, number, cause, action
):
    def refuse(source, target):
        raise OSError(number, os.strerror(number), str(source))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError) as caught:
        commit()
    assert "add to the store" in caught.value.fact
    assert os.strerror(number) in caught.value.fact
    assert cause in caught.value.cause
    assert action in caught.value.action
    assert store.find("key") is None


def test_other_errors_pass_through_unchanged():
    with pytest.raises(KeyError, match="mine"), files.storage_errors("try"):
        raise KeyError("mine")


def test_a_cache_that_cannot_be_a_folder_is_a_store_error(output, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(paths, "CACHE", tmp_path / "file")
    with pytest.raises(StoreError, match="working folder"), store.workspace():
        pass
    with pytest.raises(StoreError, match="lock the store"), store.locked("key"):
        pass


def test_a_failed_write_leaves_the_old_text_and_no_scrap(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "folder" / "file.json"
    files.write_atomically(file, "old")
    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"write file\.json"):
        patch.setattr(os, "fsync", refuse)
        files.write_atomically(file, "new")
    assert read(tmp_path) == {"folder/file.json": b"old"}
    files.write_atomically(file, "new")
    assert read(tmp_path) == {"folder/file.json": b"new"}
    assert file.stat().st_mode & 0o777 == 0o644


def flat(tree, prefix="") -> dict[str, bytes]:
    return {
        k: v
        for name, inner in tree.items()
        for k, v in ({prefix + name: inner} if isinstance(inner, bytes) else flat(inner, f"{prefix}{name}/")).items()
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=st.dictionaries(SEGMENT, TREE, max_size=5), link=st.booleans())
def test_any_tree_of_files_comes_back_as_it_was(output, tmp_path, tree, link):
    content, name = flat(tree), f"example-{next(counter)}"
    entry = commit(content, name)
    assert store.find(name) == entry
    store.lay_out(entry.files, tmp_path / name, link)
    assert read(tmp_path / name) == content
