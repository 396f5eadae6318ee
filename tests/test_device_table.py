"""Every device is whole: a table, an environment, an image; and one that a machine may lack has scripts to run elsewhere."""

import fnmatch
import glob
import re
import shutil
import sys
from types import SimpleNamespace

import pytest

from onnxmake.build import budget, paths, remote
from onnxmake.build.device import Device, device, devices, lacking, tables
from onnxmake.build.target import read_target, read_targets
from onnxmake.errors import TargetError

ASKED = sorted(paths.CONTAINERS.glob("*/*.in"))
LINE = re.compile(r"(?P<package>[a-z0-9-]+)(\[.*\])?(==(?P<version>.*))?")
PIN = re.compile(r"([a-z0-9-]+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)\n")


@pytest.fixture
def containers(tmp_path, monkeypatch):
    """A containers/ folder of the test's own, with the checkout's devices."""
    monkeypatch.setattr(paths, "CONTAINERS", shutil.copytree(paths.CONTAINERS, tmp_path / "containers"))
    device.cache_clear()
    yield paths.CONTAINERS
    device.cache_clear()


def test_each_device_has_a_table_and_there_is_one_more_that_is_no_device():
    assert devices() == ["cpu", "cuda", "directml", "webgpu"]
    assert sorted([*devices(), "portable"]) == tables()


@pytest.mark.parametrize("name", devices())
def test_a_device_has_an_environment_an_image_and_a_shipped_target(name):
    folder = paths.CONTAINERS / name
    wanted = {"requirements.in", "requirements.lock", "device.toml"}
    assert wanted <= {p.name for p in folder.iterdir()}
    assert (folder / "Dockerfile").exists() is not bool(device(name).node)  # its driver's libraries are the host's
    assert [target.name for target in read_targets([paths.TARGETS]).values() if target.device == name]
    assert len({device(other).provider for other in devices()}) == len(devices())


@pytest.mark.parametrize("name", devices())
def test_a_device_that_a_machine_may_lack_has_one_script_to_run_elsewhere_and_a_page_that_names_it(name):
    folder = paths.CONTAINERS / name / "bundle"
    if device(name) == Device(device(name).provider, ep=device(name).ep):  # every machine has it
        assert not folder.exists()
        return
    (script,) = {p.name for p in folder.iterdir()} & set(remote.COMMANDS)
    assert script in (folder / "README.md").read_text() and "onnxmake.model.bundled ." in (folder / script).read_text()


@pytest.mark.parametrize("file", ASKED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_lock_has_what_is_asked_for_with_hashes_and_nothing_else(file):
    text = file.with_suffix(".lock").read_text()
    locked = {package: version for package, version, _ in PIN.findall(text)}
    assert PIN.sub("", text) == ""
    asked = [LINE.fullmatch(line) for line in file.read_text().splitlines() if line[0] != "#"]
    assert {line["package"]: line["version"] or locked[line["package"]] for line in asked}.items() <= locked.items()


@pytest.mark.parametrize(
    ("text", "said", "advice"),
    [
        ('provider = "CPU"\ngpu = 1', "unknown key 'gpu'", "'gpus'"),
        ('provider = "CPU"\ngpus = "1"', "gpus = '1' is not a whole number", "whole number"),
        ("gpus = 1", "'provider' is missing", "Add provider"),
    ],
)
def test_a_wrong_device_file_is_told_file_key_and_what_to_do(containers, text, said, advice):
    (containers / "cuda" / "device.toml").write_text(text)
    with pytest.raises(TargetError) as caught:
        lacking("cuda")
    assert "cuda/device.toml" in caught.value.fact and said in caught.value.fact and advice in caught.value.action


@pytest.mark.parametrize(("wrong", "meant"), [("cudaa", "cuda"), ("direct-ml", "directml"), ("CPU", None)])
def test_a_target_for_an_unknown_device_is_told_the_nearest_one(tmp_path, wrong, meant):
    text = (paths.TARGETS / "tiny-int4-cuda.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('device = "cuda"', f'device = "{wrong}"'))
    with pytest.raises(TargetError) as caught:
        read_target(tmp_path / "mine.toml")
    assert f"mine.toml: device = '{wrong}'" in caught.value.fact
    assert caught.value.action == (f"Did you mean '{meant}'?" if meant else "Valid: cpu, cuda, directml, webgpu.")


def test_a_new_device_is_a_file_in_a_folder_of_its_name(containers, tmp_path):
    (containers / "npu").mkdir()
    (containers / "npu" / "device.toml").write_text('provider = "NPU"\nsystem = "darwin"')
    (tmp_path / "mine.toml").write_text(
        'device = "npu"\n[source]\npath = "tiny"\n[[pass]]\nuse = "export"\n[[pass]]\nuse = "package_onnx"\ndevice = "portable"'
    )
    assert read_target(tmp_path / "mine.toml").device == "npu"
    assert lacking("npu") == "it needs darwin"


NONE, WINDOWS = "no GPU can be used here", "it needs Windows"


@pytest.mark.parametrize(
    ("system", "gpus", "nodes", "expected"),
    [
        ("linux", [], [], {"cuda": NONE, "directml": WINDOWS, "webgpu": NONE}),
        ("linux", [0], [], {"directml": WINDOWS, "webgpu": NONE}),
        ("linux", [], ["/dev/dri/renderD128"], {"cuda": NONE, "directml": WINDOWS}),
        ("win32", [], [], {"cuda": NONE}),
    ],
)
def test_what_a_machine_lacks_follows_from_its_system_and_its_gpus(monkeypatch, system, gpus, nodes, expected):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(budget, "machine", lambda: SimpleNamespace(gpus=gpus))
    monkeypatch.setattr(glob, "glob", lambda pattern: fnmatch.filter(nodes, pattern))
    assert {name: lacking(name) for name in devices() if lacking(name)} == expected
