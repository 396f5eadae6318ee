"""Steps side by side: never more memory than there is, no GPU twice, every target its result, and output a person can read.

A step that wants more than the machine has runs alone; one that wants GPUs the machine lacks says so before it starts.
"""

import json
import os
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from toy import Toy, tree

from onnxmake.build import budget
from onnxmake.build.budget import Budget
from onnxmake.errors import EnvironmentMissing

READS = '("checkpoint/architecture.json",)'
TIMED = """import json, os, time
start = time.monotonic()
time.sleep(0.3)
gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
(out / "times.json").write_text(json.dumps([start, time.monotonic(), gpus]))"""
MEETING = """import os, time
place = os.environ["NUMBA_CACHE_DIR"]
open(f"{place}/{o.value}", "x").close()
while not os.path.exists(f"{place}/{1 - o.value}"):
    time.sleep(0.01)
(out / "met").write_text(str(o.value))"""
STEP = re.compile(r"  [a-z]+ +(ran|restored) +[0-9]+\.[0-9]{2} s( +[0-9,]+ MB)?")
DELIVERED = re.compile(r"build:([a-z0-9]+): \S+ \([0-9.]+ MB\)")


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def finish(toy, *arguments, fails=False) -> str:
    """Run doit, which must end within two minutes; returns what it printed."""
    process = toy.start(*arguments)
    try:
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert bool(process.returncode) == fails, printed
    return printed


def overlapping(intervals) -> list[tuple]:
    ordered = sorted(intervals)
    return [(a, b) for a, b in zip(ordered, ordered[1:]) if b[0] < a[1]]


def timed(toy, wants, **settings) -> list[list]:
    """Build four targets of one timed step side by side; returns [start, end, gpus] of each."""
    toy.settings |= settings
    toy.write_pass("timed", TIMED, READS, wants)
    names = [toy.target(f"t{i}", [("timed", {"value": i})]) for i in range(4)]
    finish(toy, "-n", "4", "build")
    return [json.loads((toy.dist(n.removeprefix("build:")) / "times.json").read_text()) for n in names]


def test_threads_never_hold_more_memory_than_there_is_and_never_share_a_gpu():
    shared, lock = Budget(1000, [0, 1, 2]), threading.Lock()
    held, most, used, finished = [], [], [], []

    def work(seed):
        memory, gpus = random.Random(seed).randint(1, 1000), seed % 3
        with shared.take(memory, gpus) as given:
            with lock:
                held.append((memory, given))
                most.append(sum(m for m, _ in held))
                used.append([number for _, numbers in held for number in numbers])
            threading.Event().wait(0.002)
            with lock:
                held.remove((memory, given))
        finished.append(len(given) == gpus)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(120)))
    assert finished == [True] * 120
    assert max(most) <= 1000
    assert all(len(set(numbers)) == len(numbers) and set(numbers) <= {0, 1, 2} for numbers in used)


def test_everything_is_given_back_also_after_an_error():
    shared = Budget(1000, [4, 7])
    for _ in range(3):
        with pytest.raises(KeyError), shared.take(1000, 2) as given:
            raise KeyError
        assert sorted(given) == [4, 7]
    with shared.take(1000, 2) as given:
        assert sorted(given) == [4, 7]


def test_who_asks_for_more_than_there_is_runs_alone():
    shared, lock, held, seen = Budget(1000, []), threading.Lock(), [], []

    def work(memory):
        with shared.take(memory, 0):
            with lock:
                held.append(memory)
                seen.append(tuple(held))
            threading.Event().wait(0.005)
            with lock:
                held.remove(memory)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [300, 5000, 300, 300, 1_000_000, 300, 5000, 300]))
    assert {at_once for at_once in seen if max(at_once) > 1000} == {(5000,), (1_000_000,)}


def test_those_that_fit_together_run_together():
    shared, meeting = Budget(1000, [0, 1]), threading.Barrier(2)

    def work(_):
        with shared.take(500, 1) as given:
            meeting.wait(60)
            return given

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(work, range(2))) == [[0], [1]]


def test_a_waiting_one_goes_on_when_enough_is_given_back():
    shared, got = Budget(1000, [0]), threading.Event()

    def wait():
        with shared.take(600, 1):
            got.set()

    with shared.take(600, 1):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.1)
    assert got.wait(60)
    waiting.join()


@pytest.mark.parametrize("there", [[], [0], [0, 1]])
def test_more_gpus_than_there_are_is_an_error_with_advice(there):
    shared = Budget(1000, there)
    with pytest.raises(EnvironmentMissing) as caught, shared.take(1, len(there) + 1):
        pass
    assert f"needs {len(there) + 1} GPU(s); {len(there)}" in caught.value.fact
    assert caught.value.cause and "ONNXMAKE_GPUS" in caught.value.action
    with shared.take(1000, len(there)) as given:
        assert given == there


@pytest.mark.parametrize(("said", "gpus"), [("", []), ("3", [3]), ("1,0", [0, 1]), ("2,10", [2, 10])])
def test_the_machine_s_budget_is_what_the_variables_say(monkeypatch, said, gpus):
    monkeypatch.setenv("ONNXMAKE_GPUS", said)
    monkeypatch.setenv("ONNXMAKE_MEMORY_MB", "123")
    budget.machine.cache_clear()
    try:
        assert (budget.machine().memory, budget.machine().gpus) == (123, gpus)
    finally:
        budget.machine.cache_clear()


def test_without_variables_the_budget_is_no_more_than_the_machine_s_memory(monkeypatch):
    monkeypatch.delenv("ONNXMAKE_MEMORY_MB", raising=False)
    monkeypatch.setenv("ONNXMAKE_GPUS", "")
    budget.machine.cache_clear()
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
        assert 0 < budget.machine().memory <= physical
    finally:
        budget.machine.cache_clear()


def test_all_threads_take_from_one_budget(monkeypatch):
    def slowly() -> int:
        threading.Event().wait(0.05)
        return 1000

    monkeypatch.delenv("ONNXMAKE_MEMORY_MB", raising=False)
    monkeypatch.setenv("ONNXMAKE_GPUS", "0")
    monkeypatch.setattr(budget, "_machine_memory", slowly)
    budget.machine.cache_clear()
    start = threading.Barrier(4)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert len({id(b) for b in pool.map(lambda _: (start.wait(60), budget.machine())[1], range(4))}) == 1
    finally:
        budget.machine.cache_clear()


@pytest.mark.parametrize("variable", ["ONNXMAKE_MEMORY_MB", "ONNXMAKE_GPUS"])
def test_a_variable_that_is_no_number_is_an_error_with_advice(toy, variable):
    toy.settings[variable] = "8G"
    assert variable in toy.fail(toy.target("a"))


def test_targets_side_by_side_are_delivered_as_one_after_another(toy, tmp_path):
    for factor in range(6):
        toy.target(f"t{factor}", [("begin", {}), ("scale", {"factor": factor}), ("finish", {})])
    printed = finish(toy, "-n", "4", "build")
    lines = [line for line in printed.splitlines() if line and not line.startswith("environment ")]
    assert all(STEP.fullmatch(line) or DELIVERED.fullmatch(line) for line in lines), printed
    assert sorted(DELIVERED.findall(printed)) == [f"t{factor}" for factor in range(6)]
    assert [line.split()[0] for line in lines].count("begin") == 1
    alone = Toy(tmp_path, tmp_path / "cache2", tmp_path / "out2")
    finish(alone, "build")
    assert tree(alone.output / "dist") == tree(toy.output / "dist")


def test_one_failing_target_does_not_stop_the_others_and_its_error_is_whole(toy):
    toy.write_pass("stray", 'open("/nowhere/at/all")')
    for factor in range(4):
        toy.target(f"t{factor}", [("begin", {}), ("scale", {"factor": factor}), ("finish", {})])
    toy.target("bad", [("begin", {}), ("stray", {}), ("finish", {})])
    printed = finish(toy, "-n", "4", "build", fails=True)
    assert sorted(os.listdir(toy.output / "dist")) == [f"t{factor}" for factor in range(4)]
    fact = re.search(r"^ERROR stray could not read .*\n  Likely cause: .*\n  Next: .*\n", printed, re.MULTILINE)
    assert fact, printed
    rest = printed.replace(fact[0], "").splitlines()
    lines = [line for line in rest if line and not line.startswith("environment ")]
    lines.remove("build:bad was not built")
    assert all(STEP.fullmatch(line) or DELIVERED.fullmatch(line) for line in lines), printed


def test_steps_that_fit_together_run_side_by_side(tmp_path):
    (tmp_path / "cache" / "numba").mkdir(parents=True)  # steps may write there, and see each other's files
    toy = Toy(tmp_path)
    toy.write_pass("meet", MEETING, READS, "MEMORY_MB = 500")
    toy.settings["ONNXMAKE_MEMORY_MB"] = "1000"
    for value in range(2):
        toy.target(f"t{value}", [("meet", {"value": value})])
    finish(toy, "-n", "2", "build")
    assert [(toy.dist(f"t{value}") / "met").read_text() for value in range(2)] == ["0", "1"]


@pytest.mark.parametrize("memory", [501, 999_999])
def test_steps_that_do_not_fit_together_never_overlap(toy, memory):
    times = timed(toy, f"MEMORY_MB = {memory}", ONNXMAKE_MEMORY_MB="1000")
    assert len(times) == 4 and overlapping(t[:2] for t in times) == []


def test_steps_see_the_gpus_given_to_them_and_no_two_the_same_at_once(toy):
    times = timed(toy, "MEMORY_MB = 1\nGPUS = 1", ONNXMAKE_GPUS="5,6")
    assert {gpus for *_, gpus in times} <= {"5", "6"}
    for number in ("5", "6"):
        assert overlapping(t[:2] for t in times if t[2] == number) == []


def test_a_step_whose_gpus_are_lacking_fails_with_advice_and_the_others_are_built(toy):
    toy.settings["ONNXMAKE_GPUS"] = ""
    toy.write_pass("wants", '(out / "x").write_text("x")', READS, "GPUS = 1")
    toy.target("a")
    toy.target("b", [("wants", {})])
    printed = toy.fail("-n", "4", "build")
    assert "needs 1 GPU(s); 0 can be used here" in printed and "ONNXMAKE_GPUS" in printed
    assert os.listdir(toy.output / "dist") == ["a"]
