"""Digests of files: read once, read again after every change, and right whatever has happened to what is remembered."""

import functools
import hashlib
import os
import sqlite3
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from onnxmake.build import digest, paths
from onnxmake.build.files import digest_text
from onnxmake.errors import StoreError

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

pytestmark = pytest.mark.usefixtures("output")


@pytest.fixture
def settled(monkeypatch):
    """Digests are remembered at once, however young the file is."""
    monkeypatch.setattr(digest, "SETTLED", -(10**18))


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "file").write_text("text")
    return tmp_path / "file"


def is_read(path: Path, monkeypatch) -> bool:
    """Whether the digest, which must be right, is taken from the bytes."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(digest, "read_digest", lambda p: seen.append(p) or hashlib.sha256(p.read_bytes()).hexdigest())
        assert digest.digest_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    return bool(seen)


def close() -> Path:
    """Close the database, all of it in one file."""
    digest._database().close()
    digest._database.cache_clear()
    digest._many.cache_clear()
    return paths.CACHE / "digests.sqlite"


def rows() -> dict[str, str]:
    return dict(digest._database().execute("select signature, sha256 from digest").fetchall())


def set_row(text) -> None:
    digest._database().execute("update digest set sha256 = ?", (text,))


def tick(path: Path, act) -> None:
    """Do something to the file until its ctime shows it."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        act()


def test_the_digest_is_that_of_the_bytes(file):
    assert digest.digest_file(file) == digest.read_digest(file) == digest_text("text")


def test_a_file_that_has_been_left_alone_is_read_once(file, monkeypatch, settled):
    assert is_read(file, monkeypatch)
    assert not is_read(file, monkeypatch)
    close()
    assert not is_read(file, monkeypatch)


def test_a_file_is_read_again_after_a_change_that_the_clock_is_too_coarse_to_show(file, monkeypatch):
    monkeypatch.setattr(digest, "_signature", lambda stat: f"{stat.st_ino}:{stat.st_size}")
    monkeypatch.setattr(digest, "SETTLED", 10**18)
    for text in ("once", "more"):
        file.write_text(text)
        assert digest.digest_file(file) == digest_text(text)
    assert rows() == {}


def test_a_file_from_the_future_is_settled_too(file, monkeypatch):
    now = digest.time.time_ns()
    monkeypatch.setattr(digest.time, "time_ns", lambda: now - 10**15)
    assert is_read(file, monkeypatch)
    assert not is_read(file, monkeypatch)


@pytest.mark.parametrize("swap", ["written over", "replaced"])
def test_other_content_of_the_same_size_and_modification_time_is_noticed(file, monkeypatch, settled, swap):
    assert digest.digest_file(file) == digest_text("text")
    stat = file.stat()

    def change():
        place = file if swap == "written over" else file.with_name("other")
        place.write_text("next")
        os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.replace(place, file)

    tick(file, change)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert digest.digest_file(file) == digest_text("next")


def test_a_link_that_comes_or_goes_has_the_file_read_again_unless_it_is_noted(file, monkeypatch, settled):
    def link():
        os.link(file, file.with_name("link"))
        file.with_name("link").unlink()

    assert is_read(file, monkeypatch)
    tick(file, link)
    assert is_read(file, monkeypatch)
    tick(file, link)
    digest.remember(file, digest_text("text"))
    assert not is_read(file, monkeypatch)


def test_other_content_is_noticed_though_size_and_time_are_set_back(file, monkeypatch, settled):
    assert is_read(file, monkeypatch)
    stat = file.stat()

    def swap():
        file.write_text("next")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    tick(file, swap)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert digest.digest_file(file) == digest_text("next")


def test_what_is_known_already_is_not_read(file, monkeypatch):
    digest.remember(file, digest_text("text"))
    assert not is_read(file, monkeypatch)


def test_reading_the_bytes_asks_nobody(file):
    digest.remember(file, "0" * 64)
    assert digest.digest_file(file) == "0" * 64
    assert digest.read_digest(file) == digest_text("text")


def test_a_missing_file_is_the_operating_system_s_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        digest.digest_file(tmp_path / "missing")


@EXAMPLES
@given(place=st.integers(0, 72), other=st.characters(codec="utf-8"))
def test_a_row_with_any_character_changed_is_not_believed(tmp_path, monkeypatch, place, other):
    monkeypatch.setattr(digest, "SETTLED", -(10**18))
    (tmp_path / "file").write_text("text")
    digest.digest_file(tmp_path / "file")
    row = next(row for row in rows().values() if row[:64] == digest_text("text"))
    assume(row[place] != other)
    set_row(row[:place] + other + row[place + 1 :])
    assert is_read(tmp_path / "file", monkeypatch)
    assert not is_read(tmp_path / "file", monkeypatch)


@pytest.mark.parametrize(
    "text",
    ["", digest_text("text"), f"{digest_text('text')}:", "1", b"", b"\xff" * 73],
    ids=["empty", "no check", "empty check", "short", "no text", "bytes"],
)
def test_a_row_that_is_no_digest_with_its_check_is_not_believed(file, monkeypatch, settled, text):
    digest.digest_file(file)
    set_row(text)
    assert is_read(file, monkeypatch)
    assert not is_read(file, monkeypatch)


def test_a_row_of_another_file_is_not_believed(file, monkeypatch, settled):
    file.with_name("other").write_text("next")
    digest.digest_file(file)
    [mine] = rows().values()
    digest.digest_file(file.with_name("other"))
    set_row(mine)
    assert not is_read(file, monkeypatch)
    assert is_read(file.with_name("other"), monkeypatch)


def broken(whole: bytes, kind: str) -> bytes:
    return {
        "rubbish": b"rubbish " * 999,
        "short": b"x",
        "empty": b"",
        "zeros": bytes(len(whole)),
        "cut off": whole[: len(whole) // 2],
        "no header": bytes(100) + whole[100:],
        "no rows": whole[:4096] + b"\xff" * (len(whole) - 4096),
    }[kind]


@pytest.mark.parametrize("kind", ["rubbish", "short", "empty", "zeros", "cut off", "no header", "no rows"])
def test_a_database_that_is_none_is_thrown_away_and_made_anew(file, monkeypatch, settled, kind):
    digest.digest_file(file)
    database = close()
    database.write_bytes(broken(database.read_bytes(), kind))
    assert is_read(file, monkeypatch)
    assert not is_read(file, monkeypatch)
    close()
    assert not is_read(file, monkeypatch)


@pytest.mark.parametrize("bit", [0, 7])
def test_no_flipped_bit_of_the_database_makes_a_digest_wrong_or_an_error(file, settled, bit):
    right = digest.digest_file(file)
    database = close()
    whole, wrong = database.read_bytes(), {}
    for place in (i for i, byte in enumerate(whole) if byte or i < 100):
        digest._forget(database)
        database.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            found = digest.digest_file(file)
        except Exception as error:
            found = repr(error)[:60]
        if found != right:
            wrong[place] = found
        if digest._database.cache_info().currsize:
            close()
    assert wrong == {}


def fails(error: sqlite3.Error) -> types.SimpleNamespace:
    """A connection that is of no use."""

    def execute(*_):
        raise error

    return types.SimpleNamespace(execute=execute, close=lambda: None)


def test_a_database_that_turns_out_damaged_later_is_made_anew(file, monkeypatch, settled):
    connections = [fails(sqlite3.DatabaseError("database disk image is malformed"))]
    database = paths.CACHE / "digests.sqlite"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"rubbish " * 999)
    monkeypatch.setattr(
        digest, "_database", functools.cache(lambda: connections.pop() if connections else digest._open(database))
    )
    assert is_read(file, monkeypatch)
    assert not is_read(file, monkeypatch)


def test_files_are_read_while_the_database_is_locked_or_the_disk_full(file, monkeypatch, settled):
    digest.digest_file(file)
    whole = close().read_bytes()
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorname = "SQLITE_BUSY"
    useless = fails(error)
    monkeypatch.setattr(digest, "_database", functools.cache(lambda: useless))
    assert is_read(file, monkeypatch)
    assert is_read(file, monkeypatch)
    assert (paths.CACHE / "digests.sqlite").read_bytes() == whole


def test_a_cache_that_cannot_be_a_folder_is_a_store_error(file, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", file)
    with pytest.raises(StoreError, match="open the digest cache"):
        digest.digest_file(file)
    (tmp_path / "cache" / "digests.sqlite").mkdir(parents=True)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    with pytest.raises(StoreError, match="cannot be opened"):
        digest.digest_file(file)
