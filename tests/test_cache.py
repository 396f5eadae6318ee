"""The store over time: what it may forget, what it keeps, how damage is found, and how entries travel.

Whatever is forgotten or damaged, the next build gives the same bytes; nothing enters the store that is not what its name says.
"""

import io
import itertools
import json
import os
import random
import shutil
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from builder import verbs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import Toy, again, keep, tree

from onnxmake.build import archive, files, garbage, locks, paths, store
from onnxmake.build.files import digest_text
from onnxmake.build.key import digest as key_digest
from onnxmake.errors import StoreError

DAY = 86400
numbers = itertools.count()
examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def chain(factor: int):
    return [("begin", {}), ("scale", {"factor": factor}), ("finish", {})]


def commit(content, leaf="leaf", days: float = 0) -> store.Entry:
    """An entry with these files, last used some days ago."""
    explained = {"pass": "toy", "code": {"passes/toy.py": digest_text("code")}, "leaf": leaf}
    folder = locks.scratch(paths.CACHE) / f"out{next(numbers)}"
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    entry = store.commit(key_digest(explained), explained, folder, 1.5, {})
    age(store.entry_path(entry.layer, entry.key), days)
    return entry


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY,) * 2)


def manifest(entry: store.Entry, output: Path, step="step-1") -> Path:
    """Have an output folder's last build name the entry."""
    garbage.register(output)
    path = output / "build" / "steps" / f"{step}.json"
    files.write_record(path, {"key": entry.key})
    return path


def collect(current=(), grace: float = 0, budget: int | None = None) -> set[str]:
    """Remove what is found; returns the keys that stay."""
    garbage.remove(garbage.find(current, grace, budget))
    return set(garbage.entries())


def kept_objects() -> set[str]:
    return {path.name for path in garbage.objects()}


def snapshot() -> dict[str, bytes]:
    return tree(store.local())


@pytest.fixture
def later(monkeypatch):
    """Let `garbage` think it is some days later."""

    def shift(days: float) -> None:
        monkeypatch.setattr(garbage, "time", SimpleNamespace(time=lambda: time.time() + days * DAY))

    return shift


def test_what_nothing_names_goes_with_its_objects(output):
    commit({"x": b"1"})
    assert collect() == set() and kept_objects() == set()


def test_what_any_registered_output_folder_names_stays(output, tmp_path):
    mine, other, gone = (commit({"x": data.encode(), "both": b"both"}, data) for data in ("mine", "other", "gone"))
    manifest(mine, paths.OUTPUT)
    manifest(other, tmp_path / "other")
    assert collect(["step-1"]) == {mine.key, other.key}
    assert store.find(mine.key) and store.find(other.key) and not store.find(gone.key)
    assert kept_objects() == {sha for e in (mine, other) for sha, _ in e.files.values()}


def test_an_output_folder_that_is_gone_holds_nothing_and_stops_nothing(output, tmp_path):
    entry = commit({"x": b"1"})
    manifest(entry, tmp_path / "other")
    assert collect() == {entry.key}
    shutil.rmtree(tmp_path / "other")
    assert collect() == set()


def test_pins_stay_until_they_are_taken_away(output):
    one, two = commit({"x": b"1"}, "one"), commit({"x": b"2"}, "two")
    garbage.pin("t", [one.key])
    assert collect() == {one.key} and store.find(one.key) == one
    assert (garbage.unpin("t"), garbage.unpin("t")) == (True, False)
    assert collect() == set() and not store.find(two.key)


@pytest.mark.parametrize(("days", "grace", "stays"), [(0, 7, True), (6.9, 7, True), (7.1, 7, False), (0, 0, False)])
def test_what_was_used_within_the_grace_stays(output, days, grace, stays):
    entry = commit({"x": b"1"}, days=days)
    assert collect(grace=grace * DAY) == ({entry.key} if stays else set())


@pytest.mark.parametrize("grace", [0, 7 * DAY])
@pytest.mark.parametrize("budget", [None, 0])
def test_a_time_in_the_future_counts_as_fresh(output, grace, budget):
    entry = commit({"x": b"1"}, days=-30)
    assert collect(grace=grace, budget=budget) == {entry.key} and store.find(entry.key)


def test_use_renews_an_entry(output):
    entry = commit({"x": b"1"}, days=30)
    store.touch(entry)
    assert collect(grace=7 * DAY) == {entry.key}


@pytest.mark.parametrize(("budget", "stay"), [(4000, "abcd"), (3999, "bcd"), (2500, "cd"), (1000, "d"), (0, "")])
def test_under_a_budget_what_was_used_last_goes_last_and_no_more_than_needed(output, budget, stay):
    made = {n: commit({"x": n.encode() * 1000}, n, days) for n, days in zip("cabd", (20, 40, 30, 10))}
    assert collect(budget=budget) == {made[n].key for n in stay}
    assert all(bool(store.find(made[n].key)) == (n in stay) for n in made)


def test_a_budget_frees_an_object_only_with_the_last_entry_that_has_it(output):
    old = commit({"both": b"b" * 1000}, "old", 30)
    middle = commit({"both": b"b" * 1000, "own": b"m" * 1000}, "middle", 20)
    new = commit({"own": b"n" * 1000}, "new", 10)
    assert collect(budget=2500) == {new.key}
    assert not store.find(old.key) and not store.find(middle.key) and len(kept_objects()) == 1


def test_roots_and_the_fresh_stay_even_over_a_budget(output):
    root, fresh = commit({"x": b"r" * 1000}, "root", 30), commit({"x": b"f" * 1000}, "fresh", 1)
    old = commit({"x": b"o" * 1000}, "old", 20)
    manifest(root, paths.OUTPUT)
    assert collect(["step-1"], 7 * DAY, 0) == {root.key, fresh.key}
    assert not store.find(old.key)


def test_manifests_of_steps_that_no_target_has_count_for_the_grace_only(output):
    stale, current = commit({"x": b"s"}, "stale", 30), commit({"x": b"c"}, "current", 30)
    path = manifest(stale, paths.OUTPUT, "old-1")
    age(manifest(current, paths.OUTPUT, "new-1"), 30)
    assert collect(["new-1"], 7 * DAY) == {stale.key, current.key}
    age(path, 8)
    assert collect(["new-1"], 7 * DAY) == {current.key}


def test_objects_without_an_entry_go_after_their_grace_only(output, later):
    kept, lost = commit({"x": b"kept"}, "kept"), commit({"x": b"lost"}, "lost")
    manifest(kept, paths.OUTPUT)
    store.entry_path(lost.layer, lost.key).unlink()
    objects = {sha for e in (kept, lost) for sha, _ in e.files.values()}
    for days, grace in ((0, 0), (0, 7), (6.9, 7)):  # the first: a commit may be about to write its entry
        later(days)
        collect(["step-1"], grace * DAY)
        assert kept_objects() == objects
    later(7.1)
    collect(["step-1"], 7 * DAY)
    assert kept_objects() == {sha for sha, _ in kept.files.values()}


def test_an_object_just_put_in_place_with_an_old_time_is_not_taken_from_a_commit(output):
    folder = locks.scratch(paths.CACHE)
    (folder / "x").write_bytes(b"x")
    age(folder / "x", 30)
    store.put(folder / "x", digest_text("x"), store.local())
    collect()
    assert kept_objects() == {digest_text("x")}


def test_a_damaged_entry_goes_whatever_its_age(output):
    entry = commit({"x": b"1"})
    path = store.entry_path(entry.layer, entry.key)
    path.write_text(path.read_text()[:-5])
    assert collect(grace=7 * DAY) == set()


def test_environments_and_kernels_of_other_versions_go_after_the_grace_and_current_ones_stay(output):
    current = [f.parent.name for f in paths.CONTAINERS.glob("*/requirements.lock")]
    names = [garbage.environment.folder_of(n).name for n in current]
    kernels = [Path(garbage.process.kernel_cache(n)).name for n in current]
    for name, days in [*((n, 30) for n in names), ("old-000000000000-py3.11", 30), ("new-000000000000-py3.11", 1)]:
        folder = paths.CACHE / "envs" / name
        folder.mkdir(parents=True)
        (folder / "ready").touch()
        (folder / "file").write_text("x")
        Path(f"{folder}.lock").touch()
        age(folder / "ready", days)
    for name, days in [*((n, 30) for n in kernels), ("old-kernels", 30), ("new-kernels", 1)]:
        (paths.CACHE / "numba" / name).mkdir(parents=True)
        age(paths.CACHE / "numba" / name, days)
    found = garbage.find([], 7 * DAY, None)
    assert {p.name for p in found.folders} == {"old-000000000000-py3.11", "old-kernels"}
    garbage.remove(found)
    stay = [*names, "new-000000000000-py3.11"]
    assert sorted(p.name for p in (paths.CACHE / "envs").iterdir()) == sorted([*stay, *(f"{n}.lock" for n in stay)])
    assert sorted(p.name for p in (paths.CACHE / "numba").iterdir()) == sorted([*kernels, "new-kernels"])


def test_finding_removes_nothing(output):
    commit({"x": b"1"}, days=30)
    before = snapshot()
    found = garbage.find([], 0, None)
    assert found.entries and found.objects and snapshot() == before


@examples
@given(
    stored=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5), min_size=1), st.integers(1, 60), st.booleans()
        ),
        min_size=1,
        max_size=8,
    ),
    grace=st.integers(0, 60),
    budget=st.none() | st.integers(0, 20_000),
)
def test_after_any_collection_what_stays_is_whole_and_the_sizes_are_right(output, stored, grace, budget):
    shutil.rmtree(store.local(), ignore_errors=True)
    made = []
    for number, (content, days, pinned) in enumerate(stored):
        data = {name: bytes([which]) * (1000 * which) for name, which in content.items()}
        made.append(commit(data, f"{number}", days + 0.5))
        if pinned:
            garbage.pin(f"{number}", [made[-1].key])
    before = {p.name: p.stat().st_size for p in garbage.objects()}
    found = garbage.find([], grace * DAY, budget)
    garbage.remove(found)
    assert set(garbage.entries()) >= {
        e.key for e, (_, days, pinned) in zip(made, stored) if pinned or days + 0.5 < grace
    }
    assert all(store.find(key) for key in garbage.entries())
    after = {p.name: p.stat().st_size for p in garbage.objects()}
    assert (found.left, found.size) == (sum(after.values()), sum(before.values()) - sum(after.values()))
    gone = [days for e, (_, days, pinned) in zip(made, stored) if e.key not in garbage.entries()]
    idle = [
        days
        for e, (_, days, pinned) in zip(made, stored)
        if not pinned and days + 0.5 >= grace and e.key in garbage.entries()
    ]
    assert not gone or not idle or max(gone) >= 0 and min(gone) >= max(idle)
    assert not idle or budget is not None and found.left <= budget


def test_verify_finds_a_flipped_byte_at_the_old_time_and_drops_it(output):
    hurt, sound = commit({"x": b"hurt", "y": b"y"}, "hurt"), commit({"x": b"sound", "y": b"y"}, "sound")
    flip(store.object_path(hurt.layer, hurt.files["x"][0]))
    told = []
    damaged = garbage.verify(lambda done, total: told.append((done, total)))
    assert [line.split(":")[0].split()[0] for line in damaged] == ["object", "entry"] and "lacks x" in damaged[1]
    assert told[-1][0] == told[-1][1] == len(b"hurtysound")
    assert set(garbage.entries()) == {sound.key} and store.find(sound.key) == sound
    assert garbage.verify(lambda done, total: None) == []


def flip(path: Path) -> None:
    """Another byte, and the same time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    with open(path, "r+b") as file:  # the same inode
        file.write(data)
    path.chmod(0o444)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def packed(output, tmp_path, monkeypatch):
    """Three entries in a file, and an empty cache to unpack them into."""
    entries = [
        commit({"model.onnx": b"graph", "data/w": bytes(range(256)) * 5}, "one"),
        commit({"model.onnx": b"graph", "empty": b""}, "two"),
        commit({"model.onnx": b"other"}, "three"),
    ]
    file = tmp_path / "packed.tar"
    assert archive.pack(entries, file) == file.stat().st_size
    assert os.listdir(tmp_path) == sorted(["output", "packed.tar"])
    before = snapshot()
    monkeypatch.setattr(paths, "CACHE", tmp_path / "second")
    return file, entries, before


def refilled(file: Path) -> str:
    """Unpack into an empty store; returns the error's fact, empty where there was none."""
    shutil.rmtree(store.local(), ignore_errors=True)
    try:
        archive.unpack(file)
    except StoreError as error:
        assert error.cause and error.action
        return error.fact
    return ""


def is_whole_and_equal(before: dict[str, bytes]) -> bool:
    """Whether the store holds nothing that the first one did not, and every entry has its objects."""
    return snapshot().items() <= before.items() and all(store.find(key) for key in garbage.entries())


def test_what_was_packed_comes_out_with_equal_bytes(packed, tmp_path):
    file, entries, before = packed
    assert archive.unpack(file) == 3
    assert snapshot() == before
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in garbage.objects())
    for entry in entries:
        found = store.find(entry.key)
        assert (found.files, found.seconds) == (entry.files, entry.seconds)
    assert archive.unpack(file) == 3 and snapshot() == before


def test_equal_content_is_packed_into_equal_bytes(packed, tmp_path):
    file, entries, _ = packed
    archive.unpack(file)
    for path in store.local().rglob("*"):
        age(path, random.Random(path.name).random() * 100)
    again = [store.find(entry.key) for entry in reversed(entries)]
    archive.pack(again, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == file.read_bytes()


def test_an_unpacked_entry_repairs_a_damaged_one(packed):
    file, entries, before = packed
    archive.unpack(file)
    for path in [*garbage.objects(), *(path for path, _ in garbage.entries().values())]:
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    archive.unpack(file)
    assert snapshot() == before


@examples
@given(data=st.data())
def test_a_flipped_byte_is_refused_or_means_nothing(packed, tmp_path, data):
    file, _, before = packed
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "flipped.tar").write_bytes(content)
    refilled(tmp_path / "flipped.tar")
    assert is_whole_and_equal(before)


@examples
@given(data=st.data())
def test_a_cut_off_file_is_refused(packed, tmp_path, data):
    file, _, before = packed
    with tarfile.open(file) as tar:
        last = tar.getmembers()[-1]
    length = data.draw(
        st.integers(0, last.offset_data + last.size - 1) | st.integers(0, last.offset // 512).map((512).__mul__)
    )
    (tmp_path / "cut.tar").write_bytes(file.read_bytes()[:length])
    assert refilled(tmp_path / "cut.tar") != ""
    assert is_whole_and_equal(before)


@pytest.mark.parametrize("which", range(-3, 0))
def test_a_damaged_member_s_name_is_refused(packed, tmp_path, which):
    file, _, before = packed
    with tarfile.open(file) as tar:
        member = tar.getmembers()[which]
    content = bytearray(file.read_bytes())
    content[member.offset] ^= 1
    (tmp_path / "flipped.tar").write_bytes(content)
    assert refilled(tmp_path / "flipped.tar") != ""
    assert is_whole_and_equal(before)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 0 if target else 4
    return info


HASH = digest_text("evil")
FOREIGN = [
    member("../evil"),
    member("/tmp/evil"),
    member("objects/../evil"),
    member(f"objects/00/{HASH}"),
    member(f"objects/{HASH[:2]}/{HASH[:-1]}"),
    member(f"objects/{HASH[:2]}/{HASH.upper()}"),
    member(f"objects/{HASH[:2]}/{HASH}.json"),
    member(f"objects/{HASH[:2]}/{HASH}\n"),
    member(f"./objects/{HASH[:2]}/{HASH}"),
    member(f"objects/{HASH[:2]}/{HASH}", tarfile.SYMTYPE, "/etc/passwd"),
    member(f"objects/{HASH[:2]}/{HASH}", tarfile.LNKTYPE, "packed.tar"),
    member(f"objects/{HASH[:2]}/{HASH}", tarfile.DIRTYPE, "x"),
    member(f"objects/{HASH[:2]}/{HASH}", tarfile.FIFOTYPE, "x"),
    member(f"entries/{HASH}.json", tarfile.SYMTYPE, "/etc/passwd"),
    member(f"entries/{HASH}.json"),
    member(f"entries/{HASH}"),
    member(f"pins/{HASH}.json"),
    member(f"objects/{digest_text('other')[:2]}/{digest_text('other')}"),
]


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("number", range(len(FOREIGN)))
def test_a_foreign_member_is_refused(packed, tmp_path, number, first):
    file, _, before = packed
    with tarfile.open(file) as tar:
        own = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]
    foreign = (FOREIGN[number], b"evil"[: FOREIGN[number].size])
    with tarfile.open(tmp_path / "foreign.tar", "w") as tar:
        for info, content in [foreign, *own] if first else [*own, foreign]:
            tar.addfile(info, io.BytesIO(content))
    assert refilled(tmp_path / "foreign.tar") != ""
    assert is_whole_and_equal(before)
    assert not (tmp_path / "evil").exists() and not (paths.CACHE / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"no tar", b"\0" * 10240, b"\x1f\x8b" + b"x" * 600])
def test_a_file_that_is_no_pack_is_refused(packed, tmp_path, content):
    (tmp_path / "no.tar").write_bytes(content)
    assert refilled(tmp_path / "no.tar") != ""
    assert snapshot() == {}


def test_an_entry_without_its_objects_or_under_another_s_key_is_refused(packed, tmp_path):
    file, entries, _ = packed
    with tarfile.open(file) as tar:
        own = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    records = {name: data for name, data in own.items() if name.startswith("entries/")}
    one, two = sorted(records)[:2]
    for content in (records, own | {one: own[two]}):
        with tarfile.open(tmp_path / "odd.tar", "w") as tar:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        assert refilled(tmp_path / "odd.tar") != ""
        assert store.find(one.removeprefix("entries/").removesuffix(".json")) is None


@pytest.mark.parametrize("lacks", ["name", "key", "files", "all", "a table"])
def test_a_record_of_another_shape_is_refused(packed, tmp_path, lacks):
    key = key_digest({"code": {}})
    record = {"name": key, "key": {"code": {}}, "files": {}, "seconds": 1.0}
    others = {"all": {}, "a table": []}
    files.write_record(tmp_path / "record", others.get(lacks, {k: v for k, v in record.items() if k != lacks}))
    data = (tmp_path / "record").read_bytes()
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        info = tarfile.TarInfo(f"entries/{key}.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    assert refilled(tmp_path / "odd.tar") != ""
    assert snapshot() == {}


def test_a_pack_that_cannot_be_written_leaves_nothing(packed, tmp_path):
    _, entries, _ = packed
    with pytest.raises(StoreError):
        archive.pack([], tmp_path / "no" / "folder.tar")
    assert not (tmp_path / "no").exists()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Environments of the tests' own: collecting may remove them."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("envs", "numba"):
        (folder / name).mkdir()
    return folder


def toy_at(folder: Path, shared: Path, name: str = "") -> Toy:
    """A toy with own cache and output, named so, in the checkout of `folder`."""
    cache = folder / f"cache{name}"
    cache.mkdir(parents=True)
    for link in ("envs", "numba"):
        os.symlink(shared / link, cache / link)
    return Toy(folder, cache, folder / f"out{name}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared):
    """Targets a and b built, and a copy of everything."""
    toy = toy_at(tmp_path_factory.mktemp("cache") / "toy", shared)
    toy.target("a", chain(2))
    toy.target("b", chain(3))
    toy.run("build")
    return keep(toy)


@pytest.fixture
def toy(finished):
    """The same again, whatever the test before did to it."""
    return again(finished)


def gc(toy, *options: str) -> str:
    return toy.run("cache", *options, "gc")


def stored(toy) -> dict[str, bytes]:
    return tree(toy.cache / "store")


def passes_of(toy) -> list[str]:
    """Names of the passes whose entries the store has."""
    found = (json.loads(p.read_text())["record"]["key"]["pass"] for p in (toy.cache / "store" / "entries").iterdir())
    return sorted(found)


@pytest.mark.parametrize("arguments", [(), ("--grace", "0"), ("--grace", "0", "--max-size", "0")], ids=" ".join)
def test_after_any_collection_the_next_build_gives_the_same_bytes(toy, arguments):
    before = tree(toy.output / "dist")
    gc(toy, *arguments)
    assert sorted(toy.run("build").splitlines()) == ["build:a: up to date", "build:b: up to date"]
    shutil.rmtree(toy.output)
    gc(toy, *arguments)
    printed = toy.run("build")
    assert tree(toy.output / "dist") == before
    assert set(verbs(printed).values()) == ({"ran"} if arguments else {"restored"})
    toy.run("cache", "verify")


def test_what_a_target_that_is_gone_made_goes_after_the_grace(toy):
    before = tree(toy.dist("b"))
    (toy.root / "targets" / "b.toml").unlink()
    gc(toy, "--grace", "7d")
    assert passes_of(toy) == ["begin", "finish", "finish", "scale", "scale"]
    gc(toy, "--grace", "0s")
    assert passes_of(toy) == ["begin", "finish", "scale"]
    assert toy.run("build") == "build:a: up to date\n"
    toy.target("b", chain(3))
    assert verbs(toy.run("build"))["scale"] == "ran"
    assert tree(toy.dist("b")) == before


def test_a_dry_run_says_what_would_go_and_removes_nothing(toy):
    (toy.root / "targets" / "b.toml").unlink()
    before = stored(toy)
    told = gc(toy, "--grace", "0", "--dry-run")
    assert stored(toy) == before
    done = gc(toy, "--grace", "0")
    assert told.splitlines()[:-1] == done.splitlines()[:-1] and len(told.splitlines()) == 3
    assert told.splitlines()[-1].startswith("would remove 2 entries, 1 objects")
    assert done.splitlines()[-1] == told.splitlines()[-1].replace("would remove", "removed")
    assert len(before) - len(stored(toy)) == 3


def test_options_count_before_and_behind_the_word_gc(toy):
    (toy.root / "targets" / "b.toml").unlink()
    before = stored(toy)
    told = toy.run("cache", "--grace", "0", "--dry-run", "gc")
    assert toy.run("cache", "gc", "--grace", "0", "--dry-run") == told and stored(toy) == before
    shutil.rmtree(toy.output)
    toy.run("cache", "gc", "--dry-run", "--grace=0")
    assert stored(toy) == before
    toy.run("cache", "gc", "--grace", "0")
    assert passes_of(toy) == []


def test_what_another_output_folder_built_stays(toy):
    other = Toy(toy.root.parent, toy.cache, toy.output.with_name("other"))
    toy.target("b", chain(5))
    other.run("build:b")
    shutil.rmtree(toy.output)
    toy.target("b", chain(7))
    gc(toy, "--grace", "0")
    assert passes_of(toy) == ["begin", "finish", "scale"]
    toy.target("b", chain(5))
    assert other.run("build:b") == "build:b: up to date\n"


def test_a_pinned_result_is_there_whatever_is_built_later(toy):
    before = tree(toy.dist("b"))
    assert "build:b is pinned" in toy.run("cache", "pin", "build:b")
    toy.target("b", chain(5))
    toy.run("build:b")
    gc(toy, "--grace", "0")
    shutil.rmtree(toy.output)
    toy.target("b", chain(3))
    assert verbs(toy.run("build:b")) == {"begin": "restored", "scale": "restored", "finish": "restored"}
    assert tree(toy.dist("b")) == before
    assert "not pinned any more" in toy.run("cache", "unpin", "build:b")
    assert toy.run("cache", "unpin", "build:b") == "build:b is not pinned\n"
    shutil.rmtree(toy.output)
    gc(toy, "--grace", "0")
    assert passes_of(toy) == []


def test_environments_of_other_locks_go_and_the_current_one_stays(toy, shared):
    old = shared / "envs" / "cpu-000000000000-py3.11"
    old.mkdir()
    (old / "ready").touch()
    current = set(os.listdir(shared / "envs")) - {old.name}
    told = gc(toy, "--grace", "1h")
    assert old.is_dir() and "envs/" not in told
    age(old / "ready", 1)
    assert f"envs/{old.name}" in gc(toy, "--grace", "1h")
    assert set(os.listdir(shared / "envs")) == current
    toy.target("b", chain(9))
    assert "environment" not in toy.run("build")


@pytest.mark.parametrize("count", [1, 4])
def test_verify_drops_what_is_damaged_and_the_next_build_makes_it_anew(toy, count):
    before = tree(toy.output / "dist")
    found = sorted(p for p in (toy.cache / "store" / "objects").glob("*/*") if p.stat().st_size)
    for path in found[:count]:
        flip(path)
    printed = toy.run("cache", "verify", code=1)
    assert all(f"object {path.name[:12]}: its content is another" in printed for path in found[:count])
    assert "Next: Build again" in printed and "Traceback" not in printed
    assert not any(path.exists() for path in found[:count])
    assert "are whole" in toy.run("cache", "verify")
    assert "ran" in verbs(toy.run("build")).values()
    assert tree(toy.output / "dist") == before
    assert "are whole" in toy.run("cache", "verify")


def test_a_damaged_object_whose_time_was_set_back_is_not_delivered_but_made_again(toy):
    before = tree(toy.dist("a"))
    digest, _ = json.loads(before["manifest.json"])["files"]["data/model.bin"]
    toy.run("cache", "verify")  # it knows the object's digest now
    toy.run("clean", "build:a")
    flip(toy.cache / "store" / "objects" / digest[:2] / digest)
    assert verbs(toy.run("build:a")) == {"finish": "ran"}
    assert tree(toy.dist("a")) == before
    toy.run("cache", "verify")


@pytest.mark.parametrize("names", [(), ("build:a", "build:b"), ("build:b",)], ids=["all", "both", "one"])
def test_a_pack_restores_a_build_on_another_machine(toy, shared, tmp_path, names):
    file = tmp_path / "packed.tar"
    assert "entries" in toy.run("cache", "pack", str(file), *names)
    other = toy_at_same_checkout(toy, shared, "other")
    count = 3 if names == ("build:b",) else 5
    assert other.run("cache", "unpack", str(file)) == f"{count} entries are in the store\n"
    wanted = names or ("build:a", "build:b")
    assert set(verbs(other.run(*wanted)).values()) == {"restored"}
    for name in wanted:
        assert tree(other.dist(name.removeprefix("build:"))) == tree(toy.dist(name.removeprefix("build:")))
    other.run("cache", "pack", str(tmp_path / "again.tar"), *names)
    assert (tmp_path / "again.tar").read_bytes() == file.read_bytes()


def toy_at_same_checkout(toy, shared, name):
    return toy_at(toy.root.parent, shared, name)


def test_a_damaged_pack_is_refused_in_words(toy, tmp_path):
    file = tmp_path / "packed.tar"
    toy.run("cache", "pack", str(file))
    with tarfile.open(file) as tar:
        largest = max(tar.getmembers(), key=lambda m: m.size)
    content = bytearray(file.read_bytes())
    content[largest.offset_data + 700] ^= 1
    file.write_bytes(content)
    printed = toy.fail("cache", "unpack", str(file))
    assert "has another content than its name says" in printed


@pytest.mark.parametrize("command", ["pack", "pin"])
def test_a_target_that_is_not_built_is_an_error_with_advice(toy, tmp_path, command):
    toy.target("c", chain(11))
    file = [str(tmp_path / "packed.tar")] if command == "pack" else []
    printed = toy.run("cache", command, *file, "build:c", code=1)
    assert "scale of c is not in the store." in printed and "Next: Run doit build:c first." in printed
    assert os.listdir(tmp_path) == [] and not (toy.cache / "store" / "pins").exists()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("vrify",), "Did you mean 'verify'?"),
        (("pack",), "doit cache pack FILE"),
        (("unpack",), "doit cache unpack FILE"),
        (("pack", "x.tar", "build:aa"), "Did you mean 'a'?"),
        (("pin", "build:aa"), "Did you mean 'a'?"),
        (("unpack", "no/such/file"), "No such file"),
        (("--grace", "soon", "gc"), "is no time"),
        (("gc", "--grace", "7y"), "is no time"),
        (("--max-size", "much", "gc"), "is no size"),
        (("gc", "--max-size", "much"), "is no size"),
    ],
)
def test_a_wrong_command_is_an_error_with_advice_and_changes_nothing(toy, arguments, advice):
    before = stored(toy)
    printed = toy.run("cache", *arguments, code=1)
    assert advice in printed and "ERROR" in printed and "Traceback" not in printed
    assert stored(toy) == before


def test_status_gives_each_target_s_size_and_what_no_other_shares(toy):
    toy.write_pass("fill", '(out / "x").write_bytes(bytes([o.value]) * o.value * 1_000_000)', '("model.json",)')
    toy.target("a", [("begin", {}), ("fill", {"value": 2})])
    toy.target("b", [("begin", {}), ("fill", {"value": 2}), ("grow", {"value": 3})])
    toy.write_pass("grow", '(out / "x").write_bytes(bytes([o.value]) * o.value * 1_000_000)', '("x",)')
    shutil.rmtree(toy.cache / "store")
    toy.target("c", [("begin", {}), ("fill", {"value": 5})])
    toy.run("build:a", "build:b")
    printed = toy.run("cache")
    cells = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line[:2] in ("a ", "b ", "c ")}
    assert cells == {"a": ["2.0", "0.0"], "b": ["5.0", "3.0"], "c": ["0.0", "0.0"]}
    assert "3 entries, 5.0 MB, 0.0 MB of it not from the last build" in printed
    toy.target("b", [("begin", {}), ("fill", {"value": 2})])
    shutil.rmtree(toy.output / "build")
    toy.run("build:a")
    assert "3 entries, 5.0 MB, 3.0 MB of it not from the last build" in toy.run("cache", "status")
