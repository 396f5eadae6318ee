"""The store: what is committed comes back, whole or not at all, and never otherwise than it was."""

import errno
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmake.build import digest, files, locks, paths, store
from onnxmake.build.files import read_record
from onnxmake.errors import PassError, StoreError

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
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def out(content) -> Path:
    """What a step leaves behind: a folder on the store's file system."""
    return write(Path(tempfile.mkdtemp(dir=locks.scratch(paths.CACHE))), content)


def commit(content=FILES, name="key", kept=None, layer=None) -> store.Entry:
    return store.commit(name, {"leaf": 1}, out(content), 1.25, kept or {}, layer)


def objects() -> list[Path]:
    return [p for p in (paths.CACHE / "store" / "objects").rglob("*") if p.is_file()]


def object_of(entry: store.Entry, name: str = "model.onnx") -> Path:
    return store.object_path(entry.layer, entry.files[name][0])


def flip(path: Path, place: int = 0) -> None:
    """Turn one bit of a file, which keeps its size, once the clock of the file system has ticked."""
    before, content = path.stat().st_mtime_ns, bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    while path.stat().st_mtime_ns == before:
        path.write_bytes(content)


def is_link(one: Path, other: Path) -> bool:
    return (one.stat().st_dev, one.stat().st_ino) == (other.stat().st_dev, other.stat().st_ino)


def refuse(*arguments, **_):
    raise AssertionError(f"{arguments} was read")


def no_links(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.fixture
def no_clones(monkeypatch):
    """A file system that cannot share blocks, wherever the tests run."""
    monkeypatch.setattr(files, "_cloned", lambda *_: False)


@pytest.fixture
def shared(output, tmp_path, monkeypatch):
    """Two stores of ONNXMAKE_STORES, and one that travels with the checkout."""
    monkeypatch.setattr(store, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setenv("ONNXMAKE_STORES", f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
    return [tmp_path / "one", tmp_path / "two", tmp_path / "prebuilt"]


def state(folder: Path) -> dict[str, tuple]:
    """Everything about a folder that writing to it would change."""
    return {
        str(p.relative_to(folder)): (s.st_ino, s.st_mode, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        for p in [folder, *folder.rglob("*")]
        if (s := p.stat())
    }


@pytest.mark.parametrize("link", [True, False])
def test_what_is_committed_is_found_and_laid_out_again(output, tmp_path, link):
    entry = commit()
    assert store.find("key") == entry
    assert store.find("other") is None
    store.lay_out(entry.files, tmp_path / "copy", link)
    assert read(tmp_path / "copy") == FILES


def test_an_entry_records_the_key_s_document_and_the_files(output):
    entry = commit()
    assert read_record(store.entry_path(entry.layer, "key")) == {
        "name": "key",
        "key": {"leaf": 1},
        "seconds": 1.25,
        "files": {name: [files.digest_text(data.decode("latin-1")), len(data)] for name, data in FILES.items()},
    }


def test_objects_are_read_only_and_equal_files_are_one(output):
    commit()
    assert len(objects()) == len(set(FILES.values()))
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o444 for p in objects())


def test_a_commit_leaves_nothing_but_objects_and_the_entry(output):
    entry = commit()
    locks._remove_own()
    locks._own.clear()
    expected = {f"objects/{sha[:2]}/{sha}" for sha, _ in entry.files.values()} | {"entries/key.json"}
    assert set(read(paths.CACHE / "store")) == expected
    assert not (paths.CACHE / ".tmp").exists()


def test_laid_out_links_share_the_object_and_copies_do_not(output, tmp_path, no_clones):
    entry = commit()
    store.lay_out(entry.files, tmp_path / "links", link=True)
    store.lay_out(entry.files, tmp_path / "copies", link=False)
    for name in entry.files:
        assert is_link(tmp_path / "links" / name, object_of(entry, name))
        assert not is_link(tmp_path / "copies" / name, object_of(entry, name))
        assert (tmp_path / "copies" / name).stat().st_nlink == 1


@pytest.mark.parametrize("link, mode", [(True, 0o444), (False, 0o644)])
@pytest.mark.parametrize("links", ["links", "no links"])
def test_laid_out_files_are_read_only_for_steps_and_ordinary_for_people_whatever_the_umask(
    output, tmp_path, monkeypatch, no_clones, link, mode, links
):
    entry = commit()
    if links == "no links":
        monkeypatch.setattr(os, "link", no_links)
    before = os.umask(0o077)
    try:
        store.lay_out(entry.files, tmp_path / "copies", link)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / "copies" / name).stat().st_mode) for name in FILES} == {mode}
    assert {stat.S_IMODE(p.stat().st_mode) for p in objects()} == {0o444}


def test_a_laid_out_copy_may_be_changed_without_harm(output, tmp_path):
    entry = commit()
    store.lay_out(entry.files, tmp_path / "copy", link=False)
    (tmp_path / "copy" / "model.onnx").write_bytes(b"edited")
    store.lay_out(entry.files, tmp_path / "again", link=False)
    assert read(tmp_path / "again") == FILES


def test_files_are_copied_where_the_file_system_has_no_links(output, tmp_path, monkeypatch, no_clones):
    monkeypatch.setattr(os, "link", no_links)
    entry = commit()
    store.lay_out(entry.files, tmp_path / "copy", link=True)
    assert read(tmp_path / "copy") == FILES
    assert not is_link(tmp_path / "copy" / "model.onnx", object_of(entry))


def test_links_that_come_and_go_do_not_make_an_object_be_read_again(output, tmp_path, monkeypatch, no_clones):
    entry = commit()
    path = object_of(entry)
    before = path.stat().st_ctime_ns
    monkeypatch.setattr(digest, "read_digest", refuse)
    linked = {tmp_path / "links" / name: sha for name, (sha, _) in entry.files.items()}
    while path.stat().st_ctime_ns == before:
        store.lay_out(entry.files, tmp_path / "links", link=True)
        assert is_link(tmp_path / "links" / "model.onnx", path)
        with store.unlinking(linked):
            shutil.rmtree(tmp_path / "links")
    assert store.find("key") == entry
    store.lay_out(entry.files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == FILES


def test_an_object_that_was_changed_through_a_link_is_a_miss_when_the_link_is_gone(output, tmp_path, no_clones):
    entry = commit()
    sha, _ = entry.files["model.onnx"]
    store.lay_out(entry.files, tmp_path / "links", link=True)
    link = tmp_path / "links" / "model.onnx"
    stat = link.stat()
    link.chmod(0o644)
    link.write_bytes(b"hparg")
    os.utime(link, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with store.unlinking({link: sha}):
        link.unlink()
    assert store.find("key") is None


def test_content_reaches_the_disk_before_the_names_and_the_record_comes_last(output, monkeypatch):
    done = []
    for name in ("sync", "put", "write_record"):
        real = getattr(store, name)
        monkeypatch.setattr(
            store, name, lambda path, *a, n=name, r=real, **k: (done.append((n, path.is_dir(), k)), r(path, *a, **k))
        )
    commit()
    steps = [kind for kind, _ in itertools.groupby(done)]
    assert steps == [
        ("sync", False, {}),
        ("put", False, {}),
        ("sync", True, {}),
        ("write_record", False, {"durable": True}),
    ]


@pytest.mark.parametrize("call", ["sync", "put", "write_record"])
def test_an_interrupted_commit_leaves_no_entry_and_the_next_one_works(output, tmp_path, monkeypatch, call):
    calls, real = itertools.count(), getattr(store, call)

    def stop(*arguments, **more):
        if call == "write_record" or next(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(store, call, stop)
        with pytest.raises(KeyboardInterrupt):
            commit()
    assert bool(objects()) == (call != "sync")
    assert not store.entry_path(paths.CACHE / "store", "key").exists()
    assert store.find("key") is None
    entry = commit()
    assert store.find("key") == entry
    store.lay_out(entry.files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == FILES


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda p: os.truncate(p, 2),
        lambda p: p.write_bytes(b"much longer than it was"),
        flip,
        lambda p: flip(p, -1),
    ],
    ids=["missing", "cut off", "grown", "first byte flipped", "last byte flipped"],
)
def test_a_damaged_object_is_a_miss_and_a_new_commit_repairs_it(output, tmp_path, damage):
    entry = commit()
    hurt = object_of(entry)
    hurt.chmod(0o644)
    assert store.find("key") == entry
    damage(hurt)
    assert store.find("key") is None
    assert not store.is_whole(entry.files) and store.located(entry.files["model.onnx"][0]) is None
    store.lay_out(commit().files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == FILES
    assert store.find("key") == entry


def test_another_object_s_content_under_an_object_s_name_is_a_miss(output):
    entry = commit({"a": b"one", "b": b"two"})
    one, two = object_of(entry, "a"), object_of(entry, "b")
    os.replace(one, two)
    assert store.find("key") is None
    assert store.located(entry.files["b"][0]) is None


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_an_entry_with_any_byte_flipped_is_a_miss_and_a_new_commit_repairs_it(output, bit):
    entry = commit({"a": b"one", "b": b"two"})
    path = store.entry_path(entry.layer, "key")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        files._read.clear()
        assert store.find("key") is None, place
    assert commit({"a": b"one", "b": b"two"}) == entry == store.find("key")
    assert path.read_bytes() == whole


def test_an_entry_damaged_after_it_was_found_is_a_miss(output):
    entry = commit()
    assert store.find("key") == entry
    flip(store.entry_path(entry.layer, "key"), 20)
    assert store.find("key") is None


@pytest.mark.parametrize("damage", [Path.unlink, flip], ids=["missing", "flipped"])
def test_a_lost_object_is_an_error_with_advice_when_files_are_laid_out(output, tmp_path, damage):
    entry = commit()
    damage(object_of(entry))
    with pytest.raises(StoreError, match="model.onnx") as caught:
        store.lay_out(entry.files, tmp_path / "copy", link=True)
    assert "Build again" in caught.value.action


def test_layers_are_the_local_store_then_those_of_the_setting_in_order_then_the_prebuilt_one(shared):
    assert store.layers() == [paths.CACHE / "store", *shared]


def test_the_first_layer_that_has_an_entry_whole_is_taken(shared):
    layers = store.layers()
    made = [commit({"a": b"content", str(i): b"own %d" % i}, layer=layer) for i, layer in enumerate(layers)]
    for i, entry in enumerate(made):
        assert store.find("key") == entry
        if i % 2:
            store.entry_path(layers[i], "key").write_text("rubbish")
        else:
            store.object_path(layers[i], entry.files[str(i)][0]).unlink()
    assert store.find("key") is None


def test_objects_of_an_entry_may_be_spread_over_layers(shared, tmp_path):
    one, two, _ = shared
    entry = commit({"a": b"aa", "b": b"bb"}, layer=one)
    commit({"b": b"bb"}, "other", layer=two)
    flip(object_of(entry, "b"))
    assert store.find("key") == entry
    assert store.located(entry.files["b"][0]) == store.object_path(two, entry.files["b"][0])
    store.lay_out(entry.files, tmp_path / "copy", link=True)
    assert read(tmp_path / "copy") == {"a": b"aa", "b": b"bb"}


def test_other_layers_are_read_and_never_written(shared, tmp_path, no_clones):
    made = {layer: commit({"a": layer.name.encode()}, layer.name, layer=layer) for layer in shared}
    before = {layer: state(layer) for layer in shared}
    for layer, entry in made.items():
        assert store.find(layer.name) == entry
        for link in (True, False):
            store.lay_out(entry.files, tmp_path / f"{layer.name}-{link}", link)
            assert not is_link(tmp_path / f"{layer.name}-{link}" / "a", object_of(entry, "a"))
        assert stat.S_IMODE((tmp_path / f"{layer.name}-True" / "a").stat().st_mode) == 0o444
        assert commit({"a": layer.name.encode()}, layer.name).layer == paths.CACHE / "store"
        assert store.find(layer.name).layer == paths.CACHE / "store"
        with store.locked(layer.name):
            pass
    assert {layer: state(layer) for layer in shared} == before


def test_the_use_of_an_entry_is_noted_in_the_local_store_and_in_no_other(shared):
    local, other = commit(name="local"), commit(name="other", layer=shared[0])
    times = {}
    for entry in (local, other):
        path = store.entry_path(entry.layer, entry.key)
        os.utime(path, (1, 1))
        store.touch(entry)
        times[entry.key] = path.stat().st_mtime
    assert times["local"] > 1 and times["other"] == 1


def test_a_layer_that_is_not_there_is_passed_over(shared, monkeypatch):
    monkeypatch.setenv("ONNXMAKE_STORES", f"{os.pathsep}/nowhere/at/all{os.pathsep}")
    assert store.find("key") is None
    assert commit() == store.find("key")


def test_an_entry_copied_to_another_layer_stands_without_the_first(shared, tmp_path):
    entry = commit()
    for _ in range(2):
        store.copy(entry, store.PREBUILT)
    shutil.rmtree(entry.layer)
    assert store.find("key").files == entry.files
    assert {stat.S_IMODE(object_of(store.find("key"), name).stat().st_mode) for name in FILES} == {0o444}
    store.lay_out(entry.files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == FILES


def test_inputs_that_are_results_as_they_are_are_neither_read_nor_stored_again(output, tmp_path, monkeypatch):
    first = commit({"config.json": b"settings", "gone": b"gone"}, "first")
    before = {path: path.stat().st_ino for path in objects()}
    with monkeypatch.context() as patch:
        patch.setattr(digest, "read_digest", refuse)
        patch.setattr(store, "put", refuse)
        second = commit({}, "second", {"renamed.json": first.files["config.json"]})
    assert second.files == {"renamed.json": first.files["config.json"]}
    assert store.find("second") == second
    assert {path: path.stat().st_ino for path in objects()} == before
    both = commit({"model.onnx": b"graph"}, "third", {"config.json": first.files["config.json"]})
    store.lay_out(both.files, tmp_path / "copy", link=True)
    assert read(tmp_path / "copy") == {"config.json": b"settings", "model.onnx": b"graph"}


def test_an_input_that_only_another_layer_has_may_be_a_result_as_it_is(shared, tmp_path):
    first = commit({"config.json": b"settings"}, "first", layer=shared[0])
    second = commit({"model.onnx": b"graph"}, "second", first.files)
    assert store.find("second") == second
    store.lay_out(second.files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == {"config.json": b"settings", "model.onnx": b"graph"}


def test_a_pass_may_link_an_input_into_its_output(output, tmp_path, no_clones):
    first = commit({"data.bin": b"weights"}, "first")
    store.lay_out(first.files, tmp_path / "src", link=True)
    folder = out({"model.onnx": b"graph"})
    for name in ("data.bin", "again.bin"):
        os.link(tmp_path / "src" / "data.bin", folder / name)
    second = store.commit("second", {}, folder, 0, {})
    assert store.find("first") == first and store.find("second") == second
    store.lay_out(second.files, tmp_path / "copy", link=False)
    assert read(tmp_path / "copy") == {"model.onnx": b"graph", "data.bin": b"weights", "again.bin": b"weights"}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.symlink_to("/etc"),
        lambda path: path.symlink_to("model.onnx"),
        lambda path: path.symlink_to("nothing"),
        os.mkfifo,
    ],
    ids=["link to a file", "link to a folder", "link within", "link to nothing", "pipe"],
)
def test_a_link_or_device_among_the_results_is_the_pass_s_error(output, make):
    folder = out({"model.onnx": b"graph", "deep/file": b"file"})
    make(folder / "deep" / "odd")
    with pytest.raises(PassError, match="odd, which is no plain file") as caught:
        store.commit("key", {}, folder, 0, {})
    assert caught.value.cause and caught.value.action
    assert store.find("key") is None and objects() == []


def test_a_second_process_waits_until_the_first_lets_go(output):
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", LOCKED, str(paths.CACHE), *names], env=environment)
        for names in (("first", ""), ("second", "first"))
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (paths.CACHE / "order").read_text().splitlines() == ["first in", "first out", "second in", "second out"]


def test_locks_of_different_keys_do_not_wait_for_each_other_and_leave_no_file(output):
    with store.locked("one"), store.locked("two"):
        assert sorted(p.name for p in (paths.CACHE / "locks").iterdir()) == ["one", "two"]
    assert list((paths.CACHE / "locks").iterdir()) == []


def test_an_error_under_a_lock_is_not_taken_for_the_lock_s(output):
    with pytest.raises(OSError, match="mine") as caught, store.locked("key"):
        raise OSError(errno.ENOSPC, "mine")
    assert not isinstance(caught.value, StoreError)


def test_a_refusal_while_committing_is_a_store_error_and_leaves_no_entry(output, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
        patch.setattr(os, "replace", refuse)
        commit()
    assert "add to the store" in caught.value.fact and os.strerror(errno.ENOSPC) in caught.value.fact
    assert store.find("key") is None


def test_a_cache_that_cannot_be_a_folder_is_a_store_error(output, tmp_path, monkeypatch):
    folder = out(FILES)
    (tmp_path / "file").touch()
    monkeypatch.setattr(paths, "CACHE", tmp_path / "file")
    with pytest.raises(StoreError, match="lock the store"), store.locked("key"):
        pass
    with pytest.raises(StoreError):
        store.commit("key", {}, folder, 0, {})


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
