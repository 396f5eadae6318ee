"""Environments: made once from their lock, whole or not at all, and what a person sees when that fails."""

import os
import subprocess
import sys

import pytest

from onnxmake.build import environment, paths
from onnxmake.errors import EnvironmentMissing

ENSURE = """
import sys
from pathlib import Path
from onnxmake.build import environment, paths
paths.CONTAINERS, paths.CACHE, paths.BUILD = map(Path, sys.argv[1:])
print(environment.ensure("plain"))
"""


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


def test_an_environment_is_no_other_s_and_runs_without_the_host_s_packages(containers):
    python = environment.ensure("plain")
    assert python.is_relative_to(paths.CACHE / "envs")
    asked = [
        python,
        "-c",
        "import sys, importlib.util as i; print(sys.prefix, i.find_spec('doit'), i.find_spec('pip'))",
    ]
    assert subprocess.check_output(asked, text=True).split() == [str(environment.folder_of("plain")), "None", "None"]


def test_processes_that_need_it_at_once_make_it_once(containers):
    arguments = [sys.executable, "-c", ENSURE, containers, paths.CACHE, paths.BUILD]
    processes = [
        subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(paths.ROOT)}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = "".join(process.communicate()[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert printed.count("installing") == 1
    assert printed.count(str(environment.python_of(environment.folder_of("plain")))) == 2
    assert environment.is_ready("plain")


@pytest.mark.parametrize("call", ["_install", "_logged"])
def test_an_interrupted_installation_is_not_taken_for_an_environment(containers, monkeypatch, call):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(environment, call, stop)
        environment.ensure("plain")
    assert not environment.is_ready("plain")
    assert environment.ensure("plain").exists() and environment.is_ready("plain")


def test_the_log_holds_what_was_said_and_packages_are_counted(tmp_path):
    said, found = "Collecting one\nUsing cached one\nCollecting two\n", []
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        code = environment._logged(
            [sys.executable, "-c", f"import sys; print({said!r}, end=''); sys.exit(3)"], log, found.append
        )
    assert (code, found) == (3, [1, 1, 2])
    assert (tmp_path / "log").read_text() == said


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
