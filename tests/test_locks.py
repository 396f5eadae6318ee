"""Locks exclude and leave nothing behind; working folders go with their process, or with the next one's sweep."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from onnxmake.build import locks, paths

SCRATCH = """
import subprocess, sys
from pathlib import Path
from onnxmake.build import locks
folder = locks.scratch(Path(sys.argv[1]))
(folder / "half").mkdir()
(folder / "half" / "file").write_text("half")
if "child" in sys.argv:
    subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdout=subprocess.DEVNULL)
print(folder, flush=True)
"""
WAIT = SCRATCH + "sys.stdin.read()\n"
HOLD = """
import sys
from pathlib import Path
from onnxmake.build import locks
with locks.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNT = """
import sys
from pathlib import Path
from onnxmake.build import locks
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    with locks.held(folder / "lock"):
        (folder / "inside").touch(exist_ok=False)
        (folder / "count").write_text(str(int((folder / "count").read_text()) + 1))
        (folder / "inside").unlink()
"""
COME_AND_GO = """
import sys
from pathlib import Path
from onnxmake.build import locks
root = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    locks.sweep(root / locks.WORKING)
    file = locks.scratch(root) / "file"
    file.write_text("mine")
    locks.sweep(root / locks.WORKING)
    assert file.read_text() == "mine"
    locks._remove_own()
    locks._own.clear()
"""


@pytest.fixture(autouse=True)
def own():
    """This process's working folders are a test's own."""
    yield
    locks._remove_own()
    locks._own.clear()


@pytest.fixture
def start():
    """Starts a script in a process of its own, which is ended with the test."""
    started = []

    def start(script: str, *arguments) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(paths.ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_process_has_one_working_folder_under_each_root_with_a_lock_beside_it(tmp_path):
    one, other = locks.scratch(tmp_path / "one"), locks.scratch(tmp_path / "other")
    assert one.parent == tmp_path / "one" / ".tmp" and other.parent == tmp_path / "other" / ".tmp"
    assert locks.scratch(tmp_path / "one") == one and one.is_dir()
    assert names(one.parent) == [one.name, f"{one.name}.lock"]


def test_threads_that_ask_at_once_get_the_same_folder(tmp_path):
    found, together = [], threading.Barrier(8)

    def ask():
        together.wait()
        found.append(locks.scratch(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert len(names(tmp_path / ".tmp")) == 2


def test_two_processes_have_two_folders(tmp_path, start):
    assert said(start(WAIT, tmp_path)) != said(start(WAIT, tmp_path)) != str(locks.scratch(tmp_path))


@pytest.mark.parametrize(
    "end, code", [("", 0), ("sys.exit(3)", 3), ("raise KeyError", 1), ("raise KeyboardInterrupt", -2)]
)
def test_nothing_is_left_when_the_process_ends_by_itself(tmp_path, start, end, code):
    process = start(SCRATCH + end, tmp_path)
    process.communicate()
    assert process.returncode == code
    assert names(tmp_path) == []


def test_a_root_that_is_no_folder_is_an_operating_system_s_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        locks.scratch(tmp_path / "file")


def test_what_a_killed_process_left_is_swept_and_what_living_ones_have_is_kept(tmp_path, start):
    doomed, living = start(WAIT, tmp_path), start(WAIT, tmp_path)
    left, kept, mine = Path(said(doomed)), Path(said(living)), locks.scratch(tmp_path)
    kill(doomed)
    assert (left / "half" / "file").exists() and Path(f"{left}.lock").exists()
    locks.sweep(tmp_path / ".tmp")
    assert names(tmp_path / ".tmp") == sorted(f"{p.name}{end}" for p in (kept, mine) for end in ("", ".lock"))
    assert (kept / "half" / "file").read_text() == "half"
    kill(living)
    locks.sweep(tmp_path / ".tmp")
    assert names(tmp_path / ".tmp") == [mine.name, f"{mine.name}.lock"]


def test_a_child_that_outlives_a_killed_process_keeps_nothing_from_the_sweep(tmp_path, start):
    doomed = start(WAIT, tmp_path, "child")
    assert Path(said(doomed)).exists()
    kill(doomed)
    locks.sweep(tmp_path / ".tmp")
    assert names(tmp_path) == []


def test_a_folder_without_a_lock_and_a_stray_file_are_swept_and_the_empty_parent_goes(tmp_path):
    (tmp_path / ".tmp" / "stray" / "deep").mkdir(parents=True)
    (tmp_path / ".tmp" / "file").write_text("cut o")
    locks.sweep(tmp_path / ".tmp")
    assert names(tmp_path) == []


def test_a_sweep_of_what_is_not_there_or_no_folder_does_nothing(tmp_path):
    (tmp_path / "file").touch()
    locks.sweep(tmp_path / "missing")
    locks.sweep(tmp_path / "file")
    assert names(tmp_path) == ["file"]


def test_in_another_folder_locks_that_nobody_holds_are_swept_and_held_ones_kept(tmp_path, start):
    (tmp_path / "left").touch()
    other = start(HOLD, tmp_path / "other")
    assert said(other) == "held"
    with locks.held(tmp_path / "mine"):
        locks.sweep(tmp_path)
        assert names(tmp_path) == ["mine", "other"]
    kill(other)
    locks.sweep(tmp_path)
    assert tmp_path.exists() and names(tmp_path) == []


def test_processes_that_sweep_make_and_remove_at_once_do_not_disturb_each_other(tmp_path, start):
    processes = [start(COME_AND_GO, tmp_path, 60) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    locks.sweep(tmp_path / ".tmp")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [None, KeyError, KeyboardInterrupt])
def test_a_lock_is_let_go_and_its_file_removed_whatever_happens_inside(tmp_path, error):
    for _ in range(2):
        try:
            with locks.held(tmp_path / "lock"):
                assert names(tmp_path) == ["lock"]
                if error:
                    raise error
        except (KeyError, KeyboardInterrupt) as raised:
            assert type(raised) is error
        assert names(tmp_path) == []


def test_one_process_at_a_time_holds_a_lock_although_each_removes_its_file(tmp_path, start):
    (tmp_path / "count").write_text("0")
    processes = [start(COUNT, tmp_path, 100) for _ in range(4)]
    assert [said(process) for process in processes] == ["ready"] * 4
    for process in processes:
        go_on(process)
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert (tmp_path / "count").read_text() == "400"
    assert names(tmp_path) == ["count"]


def test_who_waits_for_a_lock_whose_file_is_removed_meanwhile_does_not_hold_the_removed_one(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    real, asked = fcntl.flock, []

    def flock(number, operation):
        if operation & fcntl.LOCK_EX:
            asked.append(number)
            if len(asked) == 1:
                (tmp_path / "lock").unlink()  # as its holder does, between this process's opening and locking
        return real(number, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.held(tmp_path / "lock"):
        with pytest.raises(Timeout), FileLock(tmp_path / "lock", blocking=False):
            pass
        assert names(tmp_path) == ["lock"]


def test_the_lock_of_a_killed_process_passes_to_who_waits(tmp_path, start):
    (tmp_path / "count").write_text("0")
    holder = start(HOLD, tmp_path / "lock")
    assert said(holder) == "held"
    waiter = start(COUNT, tmp_path, 1)
    assert said(waiter) == "ready"
    go_on(waiter)
    assert (tmp_path / "count").read_text() == "0"
    kill(holder)
    assert waiter.communicate()[1] == ""
    assert (tmp_path / "count").read_text() == "1"
    assert names(tmp_path) == ["count"]
