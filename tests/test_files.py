"""Files that are there whole or not at all: text, sealed records, and files brought to a new place."""

import errno
import itertools
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmake.build import files, locks, paths
from onnxmake.errors import StoreError

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORD = st.dictionaries(st.text(max_size=9), VALUE, max_size=4)
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
counter = itertools.count()

pytestmark = pytest.mark.usefixtures("output")


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refuse(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def change(path: Path, content: bytes) -> None:
    """Other content in the same file, once the clock of the file system has ticked."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(content)


def sealed(tmp_path: Path, record) -> tuple[Path, bytes]:
    """A record in a file that nobody has read."""
    path = tmp_path / "output" / "cache" / f"{next(counter)}.json"
    files.write_record(path, record)
    return path, path.read_bytes()


@EXAMPLES
@given(value=RECORD)
def test_equal_values_have_one_text_that_says_them_all(value):
    turned = dict(reversed(value.items()))
    assert files.canonical_json(turned) == files.canonical_json(value)
    assert json.loads(files.canonical_json(value)) == value


@pytest.mark.parametrize("root", ["CACHE", "BUILD", "DIST"])
def test_files_of_the_cache_build_and_dist_are_made_in_the_working_folder_of_each(root):
    path = getattr(paths, root) / "some" / "where" / "file.json"
    files.write_atomically(path, "text")
    assert path.read_text() == "text"
    assert files.root_of(path) == getattr(paths, root)
    assert (getattr(paths, root) / ".tmp").is_dir() and not (path.parent / ".tmp").exists()


def test_other_files_are_made_beside_where_they_go(tmp_path):
    files.write_atomically(tmp_path / "folder" / "file.json", "text")
    assert (tmp_path / "folder" / ".tmp").is_dir() and not paths.CACHE.exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_text_and_no_scrap_once_the_process_is_gone(tmp_path, monkeypatch, call):
    file = tmp_path / "folder" / "file.json"
    files.write_atomically(file, "old")
    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"write file\.json"):
        patch.setattr(os, call, refuse)
        files.write_atomically(file, "new", durable=True)
    assert file.read_text() == "old"
    files.write_atomically(file, "new", durable=True)
    locks._remove_own()
    locks._own.clear()
    assert read(tmp_path / "folder") == {"file.json": b"new"}


def test_who_has_the_old_file_open_goes_on_reading_it(tmp_path):
    file = tmp_path / "file.json"
    files.write_atomically(file, "old")
    with open(file) as reader:
        files.write_atomically(file, "new and longer")
        assert reader.read() == "old"
    assert file.read_text() == "new and longer"


def test_others_can_read_what_is_written_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        files.write_atomically(tmp_path / "file.json", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o644


def test_a_durable_write_has_the_content_on_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def synced(number):
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def renamed(source, target):
        done.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_atomically(tmp_path / "file.json", "text", durable=True)
    assert done == ["file", "name", "folder"]
    done.clear()
    files.write_atomically(tmp_path / "file.json", "text")
    assert done == ["name"]


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
def test_a_refusal_of_the_operating_system_becomes_an_error_with_cause_and_advice(number, cause, action):
    with pytest.raises(StoreError) as caught, files.storage_errors("do this"):
        raise OSError(number, os.strerror(number), "some/file")
    assert caught.value.fact == f"Could not do this: {os.strerror(number)} (some/file)."
    assert cause in caught.value.cause
    assert action in caught.value.action


def test_other_errors_pass_through_unchanged():
    with pytest.raises(KeyError, match="mine"), files.storage_errors("try"):
        raise KeyError("mine")


@EXAMPLES
@given(record=RECORD)
def test_a_record_comes_back_as_it_was_written(tmp_path, record):
    path, _ = sealed(tmp_path, record)
    assert files.read_record(path) == record


@EXAMPLES
@given(record=RECORD, data=st.data())
def test_a_record_with_any_byte_flipped_is_none(tmp_path, record, data):
    path, whole = sealed(tmp_path, record)
    place = data.draw(st.integers(0, len(whole) - 1), "place")
    other = data.draw(st.integers(1, 255), "flipped")
    path.write_bytes(whole[:place] + bytes([whole[place] ^ other]) + whole[place + 1 :])
    assert files.read_record(path) is None


@EXAMPLES
@given(record=RECORD, data=st.data())
def test_a_record_that_is_cut_off_is_none(tmp_path, record, data):
    path, whole = sealed(tmp_path, record)
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1), "length")])
    assert files.read_record(path) is None


@EXAMPLES
@given(record=RECORD, more=st.binary(min_size=1, max_size=9))
def test_a_record_with_more_before_or_behind_it_is_none(tmp_path, record, more):
    for joined in (lambda whole: whole + more, lambda whole: more + whole):
        path, whole = sealed(tmp_path, record)
        path.write_bytes(joined(whole))
        assert files.read_record(path) is None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b'{"record":{},"sha256":""}', b"\xff\xfe\0", b"\0" * 500, b"[" * 5000]
)
def test_what_is_no_record_is_none(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    assert files.read_record(tmp_path / "file.json") is None


def test_a_missing_record_is_none_and_so_is_a_folder_in_its_place(tmp_path):
    assert files.read_record(tmp_path / "missing.json") is None
    assert files.read_record(tmp_path) is None


def test_the_digest_of_one_record_does_not_seal_another(tmp_path):
    (path, one), (_, other) = sealed(tmp_path, {"a": 1}), sealed(tmp_path, {"a": 2})
    path.write_bytes(one[:-66] + other[-66:])
    assert files.read_record(path) is None


def test_a_record_is_parsed_once_while_its_file_stays(tmp_path, monkeypatch):
    path, _ = sealed(tmp_path, {"a": 1})
    first = files.read_record(path)
    monkeypatch.setattr(files, "_unsealed", None)
    assert files.read_record(path) is first


def test_a_record_that_was_read_is_read_again_after_it_is_written_damaged_or_gone(tmp_path):
    path, _ = sealed(tmp_path, {"a": 1})
    assert files.read_record(path) == {"a": 1}
    files.write_record(path, {"a": 2})
    assert files.read_record(path) == {"a": 2}
    whole = path.read_bytes()
    change(path, whole.replace(b'"a":2', b'"a":3'))
    assert files.read_record(path) is None
    change(path, whole)
    assert files.read_record(path) == {"a": 2}
    path.unlink()
    assert files.read_record(path) is None


def is_link(source: Path, destination: Path) -> bool:
    return source.stat().st_ino == destination.stat().st_ino


@pytest.mark.parametrize("link", [True, False])
def test_a_file_is_linked_where_that_is_allowed_and_else_copied(tmp_path, monkeypatch, link):
    monkeypatch.setattr(files, "_cloned", lambda *_: False)
    (tmp_path / "source").write_bytes(b"content")
    files.place(tmp_path / "source", tmp_path / "deep" / "er" / "file", link)
    assert (tmp_path / "deep" / "er" / "file").read_bytes() == b"content"
    assert is_link(tmp_path / "source", tmp_path / "deep" / "er" / "file") == link


@pytest.mark.parametrize("link", [True, False])
def test_where_the_file_system_can_share_blocks_a_file_is_neither_linked_nor_copied(tmp_path, monkeypatch, link):
    def clone(source: int, destination: int) -> bool:
        return os.write(destination, os.read(source, 99)) > 0

    monkeypatch.setattr(files, "_cloned", clone)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(files.shutil, "copyfile", refuse)
    (tmp_path / "source").write_bytes(b"content")
    files.place(tmp_path / "source", tmp_path / "file", link)
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_file_is_copied_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_cloned", lambda *_: False)
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_bytes(b"content")
    files.place(tmp_path / "source", tmp_path / "file", link=True)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert not is_link(tmp_path / "source", tmp_path / "file")


@pytest.mark.parametrize("link", [True, False])
def test_a_file_that_is_there_is_not_replaced(tmp_path, link):
    (tmp_path / "source").write_bytes(b"content")
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.place(tmp_path / "source", tmp_path / "file", link)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_missing_source_leaves_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.place(tmp_path / "source", tmp_path / "file", link=False)
    assert read(tmp_path) == {}
