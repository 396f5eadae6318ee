"""What decides whether an image is still today's: its recipe."""

import shutil
from types import SimpleNamespace

import pytest

from onnxmake.build import image, normalise, paths
from onnxmake.build.files import canonical_json
from onnxmake.errors import EnvironmentMissing

LAYERS = ["sha256:" + "1" * 64]


@pytest.fixture
def containers(tmp_path, monkeypatch):
    """A copy of containers/ that a test may edit."""
    shutil.copytree(paths.CONTAINERS, tmp_path / "containers")
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "containers")
    return tmp_path / "containers"


def recipe(layers=LAYERS, variables=("PATH=/bin",), env: str = "cpu") -> str:
    attributes = {"RootFS": {"Layers": list(layers)}, "Config": {"Env": list(variables)}}
    return canonical_json(image._recipe(env, SimpleNamespace(attrs=attributes)))


@pytest.mark.parametrize("file", ["cpu/Dockerfile", "cpu/requirements.lock", "install.sh"])
def test_it_changes_with_each_file_that_goes_into_the_image(output, containers, file):
    before = recipe()
    with open(containers / file, "a") as edited:
        edited.write("# more\n")
    assert recipe() != before


def test_it_changes_with_the_base_s_content_and_variables_and_with_the_normaliser(output, tmp_path, monkeypatch):
    seen = {recipe(), recipe(layers=[*LAYERS, "sha256:" + "2" * 64]), recipe(variables=("PATH=/usr/bin",))}
    shutil.copy(normalise.__file__, tmp_path / "normalise.py")
    with open(tmp_path / "normalise.py", "a") as edited:
        edited.write("# more\n")
    monkeypatch.setattr(normalise, "__file__", str(tmp_path / "normalise.py"))
    seen.add(recipe())
    assert len(seen) == 4


@pytest.mark.parametrize(
    "file", ["torch/Dockerfile", "cuda/requirements.lock", "cpu/requirements.in", "cpu/device.toml"]
)
def test_it_does_not_change_with_anything_else(output, containers, file):
    before = recipe()
    with open(containers / file, "a") as edited:
        edited.write("# more\n")
    assert recipe() == before


def test_windows_has_no_image_for_linux_and_an_unknown_one_names_those_there_are(output):
    assert image.names() == ["cpu", "cuda", "data", "finetune", "script", "torch"]
    for env in ("directml", "none"):
        with pytest.raises(EnvironmentMissing, match=f"no image '{env}'") as caught:
            recipe(env=env)
        assert "cpu, cuda, data, finetune, script, torch" in caught.value.action


def test_every_dockerfile_takes_its_base_as_an_argument_and_is_plain_enough_for_every_builder():
    for file in paths.CONTAINERS.glob("*/Dockerfile"):
        text = file.read_text()
        assert "ARG BASE_IMAGE" in text and "FROM ${BASE_IMAGE}" in text
        assert "syntax=" not in text and "<<" not in text and "--mount" not in text and "--link" not in text
        assert "USER 10001:10001" in text or "windows" in text
    assert "@sha256:" in image.base()["image"]
