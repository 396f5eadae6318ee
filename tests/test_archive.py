"""A release as one file: the same bytes from the same folder, and what tar makes of it."""

import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import zstandard

from onnxmake.build.process import EPOCH
from onnxmake.errors import EnvironmentMissing
from onnxmake.release import archive

FILES = {
    "README.md": b"# x\n",
    "cpu/model.onnx": b"graph",
    "cpu/model.onnx.data": os.urandom(300_000) * 3,
    f"cpu/{'n' * 120}": b"",
}


def filled(root, order, umask):
    """The release x-1 under `root`, its files written in this order."""
    before = os.umask(umask)
    try:
        for number, name in enumerate(order):
            file = root / "x-1" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(FILES[name])
            os.utime(file, (number, number))
    finally:
        os.umask(before)
    return root / "x-1"


def packed(folder, work):
    archive.pack(folder, work)
    return folder.with_name("x-1.tar.zst").read_bytes()


def test_order_rights_and_times_of_the_folder_do_not_matter(tmp_path):
    one = packed(filled(tmp_path / "one", sorted(FILES), 0o022), tmp_path / "work")
    other = packed(filled(tmp_path / "other", sorted(FILES, reverse=True), 0o077), tmp_path / "work")
    assert one == other and not (tmp_path / "work").exists()
    folder = filled(tmp_path / "third", FILES, 0o022)
    (folder / "README.md").write_bytes(b"# y\n")
    assert packed(folder, tmp_path / "work") != one


def test_tar_extracts_it_and_it_says_nothing_of_who_made_it_when(tmp_path):
    folder = filled(tmp_path / "one", FILES, 0o077)
    packed(folder, tmp_path / "work")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "--zstd", "-xf", tmp_path / "one" / "x-1.tar.zst", "-C", tmp_path / "out"], check=True)
    out = tmp_path / "out" / "x-1"
    assert {n: (out / n).read_bytes() for n in FILES} == FILES and sum(p.is_file() for p in out.rglob("*")) == len(
        FILES
    )
    with (
        open(tmp_path / "one" / "x-1.tar.zst", "rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as plain,
        tarfile.open(fileobj=plain, mode="r|") as tar,
    ):
        members = list(tar)
    assert [m.name for m in members] == sorted(m.name for m in members) and members[0].name == "x-1"
    for member in members:
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", EPOCH)
        assert member.mode == (0o755 if member.isdir() else 0o644) and member.isdir() | member.isfile()


def test_without_the_extra_nothing_is_begun(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(EnvironmentMissing, match="zstandard is not installed") as caught:
        archive.pack(filled(tmp_path, FILES, 0o022), tmp_path / "work")
    assert "onnxmake[archive]" in caught.value.action
    assert not (tmp_path / "x-1.tar.zst").exists()


def test_more_threads_would_give_the_same_and_none_another(tmp_path):
    data = b"".join(bytes([i % 251]) * (i % 97) for i in range(200_000))
    made = {
        n: zstandard.ZstdCompressor(level=archive.LEVEL, threads=n, write_checksum=True).compress(data) for n in (1, 2)
    }
    assert archive.compressor().compress(data) == made[1] == made[2]


def test_a_file_is_never_in_memory_as_a_whole(tmp_path):
    folder = tmp_path / "x-1"
    folder.mkdir()
    with open(folder / "model.onnx.data", "wb") as file:
        file.truncate(400_000_000)
    program = (
        "import resource, sys, pathlib\nfrom onnxmake.release import archive\narchive.compressor()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "archive.pack(*map(pathlib.Path, sys.argv[1:]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder, tmp_path / "work"], capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) < 100, done.stderr
    shutil.rmtree(folder)
