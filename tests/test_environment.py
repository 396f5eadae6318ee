"""Environments: made once from their lock, whole or not at all, and what a person sees when that fails."""

import pytest

from onnxmake.build import environment, paths
from onnxmake.errors import EnvironmentMissing


@pytest.fixture
def containers(output, tmp_path, monkeypatch):
    """A containers/ folder of the test's own, with an environment `plain` that locks nothing."""
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "containers")
    (tmp_path / "containers" / "plain").mkdir(parents=True)
    (tmp_path / "containers" / "plain" / "requirements.lock").write_text("# nothing\n")
    return tmp_path / "containers"


def test_it_is_made_once_and_again_for_another_lock(containers, capsys):
    first = environment.ensure("plain")
    assert first.exists() and environment.is_ready("plain")
    assert environment.ensure("plain") == first
    assert capsys.readouterr().out.count("installing") == 1
    (containers / "plain" / "requirements.lock").write_text("# something else\n")
    assert environment.ensure("plain") != first and first.exists()


def test_one_that_was_left_half_made_is_made_again(containers):
    folder = environment.folder_of("plain")
    folder.mkdir(parents=True)
    (folder / "rubbish").touch()
    assert not environment.is_ready("plain")
    environment.ensure("plain")
    assert environment.is_ready("plain") and not (folder / "rubbish").exists()


def test_a_failed_installation_is_said_and_not_taken_for_an_environment(containers):
    text = "no-such-package-anywhere==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"
    (containers / "plain" / "requirements.lock").write_text(text)
    with pytest.raises(EnvironmentMissing, match="plain could not be installed") as caught:
        environment.ensure("plain")
    assert "environment-plain.log" in caught.value.action and "no-such-package-anywhere" in caught.value.fact
    assert not environment.is_ready("plain")


def test_an_unknown_environment_names_those_that_are_there(containers):
    with pytest.raises(EnvironmentMissing, match="no environment 'cuba'") as caught:
        environment.ensure("cuba")
    assert "plain" in caught.value.action
