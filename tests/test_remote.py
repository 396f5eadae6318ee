"""Measuring over ssh, with the real client and a real server on loopback, whose user stands in for the device's machine."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from builder import Builder
from test_bundle import GPU, add, row, stand_in, state

from onnxmake.build import environment
from onnxmake.build.device import device

REPORTED = {device(kind).provider: gpu for kind, gpu in GPU.items()}
SFTP = ("/usr/lib/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/openssh/sftp-server")
SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
ForceCommand {folder}/session
Subsystem sftp {sftp}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
CLIENT = """
Host laptop
  IdentityFile {folder}/user_key
Host stranger
  IdentityFile {folder}/host_key
Host off
  Port {closed}
Host *
  Hostname 127.0.0.1
  Port {port}
  User {user}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
"""
SESSION = """#!/bin/sh
# Every command of the session, file transfer too: in the folder that is home there, with the programs that are there.
cd {folder}/home && PATH={folder}/programs:$PATH exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
POWERSHELL = """#!/bin/sh
# Runs what the script runs, if it is called as Windows' own has to be.
for script; do :; done
if [ "$*" != "-NoProfile -ExecutionPolicy Bypass -File $script" ] || [ "${{script##*/}}" != run.ps1 ]; then
  echo "powershell was called with $*" >&2
  exit 64
fi
cd "$(dirname "$script")" && ls run.ps1 install.ps1 requirements.lock > /dev/null || exit 65
{does}
"""
MEASURE = "{python} -m onnxmake.model.bundled . --device CPU"
REPORT = f"""
import json
result, wanted = json.load(open("result.json")), json.load(open("bundle.json"))["device"]
result["device"] = wanted
result["machine"] |= {{"gpu": {REPORTED}[wanted], "system": "over there"}}
json.dump(result, open("result.json", "w"))
"""


@dataclass
class Host:
    """A machine that ssh reaches as `laptop`; `off` does not answer, and `stranger` comes with a key that is not known."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def give(self, does: str = f"{MEASURE} && {{python}} {{report}}") -> None:
        """Have it report results as of the device that a bundle is for, or have PowerShell do something else."""
        python, programs, report = environment.ensure("cpu"), self.folder / "programs", self.folder / "report.py"
        report.write_text(REPORT)
        stand_in(programs, after=f"{python} {report}")
        does = does.format(python=python, report=report)
        (programs / "powershell").write_text(POWERSHELL.format(does=does))
        (programs / "powershell").chmod(0o755)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The folder of a running sshd: keys, configurations of both sides, programs and home."""
    folder, program = tmp_path_factory.mktemp("server"), shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.fail("There is no sshd: install it, on Debian with `apt-get install openssh-server`.")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd asks for it, and its service makes it
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    values = {
        "folder": folder,
        "port": free_port(),
        "closed": free_port(),
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "sftp": next(path for path in SFTP if Path(path).exists()),
    }
    (folder / "sshd_config").write_text(SERVER.format(**values))
    (folder / "ssh_config").write_text(CLIENT.format(**values))
    (folder / "session").write_text(SESSION.format(**values))
    (folder / "session").chmod(0o755)
    key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text("".join(f"[127.0.0.1]:{values[port]} {key}" for port in ("port", "closed")))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stdout=log, stderr=log)
    try:
        while not answers(values["port"]):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.01)
        yield folder
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def host(server) -> Host:
    """The machine with an empty home."""
    shutil.rmtree(server / "home", ignore_errors=True)
    (server / "home").mkdir()
    return Host(server)


def builder_of(host: Path, folder: Path, *kinds: str) -> Builder:
    """With a built target for each kind of device, and the configuration that reaches the host."""
    builder = Builder(folder, settings={"ONNXMAKE_SSH_CONFIG": str(host / "ssh_config")})
    builder.run(*(f"build:{add(builder, f'far-{kind}', kind)}" for kind in kinds))
    return builder


@pytest.fixture(scope="module")
def far(server, tmp_path_factory) -> Builder:
    """A builder for what fails: its target has never been measured, and is not afterwards."""
    builder = builder_of(server, tmp_path_factory.mktemp("far"), "directml")
    yield builder
    assert state(builder, "far-directml") == "built, not run on directml"


def test_targets_are_measured_on_their_hosts_and_their_figures_are_in_the_table(server, host, tmp_path):
    builder, names = builder_of(server, tmp_path, *GPU), {kind: f"far-{kind}" for kind in GPU}
    host.give()
    builder.settings |= {f"ONNXMAKE_{kind.upper()}_HOST": "laptop" for kind in GPU}
    printed = builder.run("bench")
    for kind, name in names.items():
        result = json.loads((host.home / "onnxmake-bundles" / name / "result.json").read_text())
        assert f"{result['runs'][0]['decode']['p50']:.1f}" in row(printed, name)
        assert f"{name}: on laptop" in printed and f"{GPU[kind]}; " in printed and "over there" in printed
        assert state(builder, name) == f"run on {GPU[kind]}"
    assert os.listdir(host.home) == ["onnxmake-bundles"]


def test_a_host_of_the_command_line_is_used_also_where_an_older_bundle_lies(server, host, tmp_path):
    builder = builder_of(server, tmp_path, "directml")
    host.give()
    older = host.home / "onnxmake-bundles" / "far-directml"
    (older / "model").mkdir(parents=True)
    for name in ("result.json", "run.ps1", "model/model.onnx"):
        (older / name).write_text("of an older bundle")
    assert len(row(builder.run("directml_host=laptop", "bench:far-directml"), "far-directml")) == 10
    assert state(builder, "far-directml") == f"run on {GPU['directml']}"


@pytest.mark.parametrize(("name", "said"), [("off", "Connection refused"), ("stranger", "Permission denied")])
def test_a_host_that_cannot_be_reached_is_an_error_that_says_what_to_try(far, name, said):
    printed = far.fail(f"directml_host={name}", "bench:far-directml")
    assert said in printed and f"{name} could not be reached" in printed and f"`ssh {name}`" in printed


def test_what_the_script_says_before_it_fails_is_shown(far, host):
    host.give('seq -f "line %g" 20; echo "the driver is too old" >&2; exit 3')
    printed = far.fail("directml_host=laptop", "bench:far-directml")
    assert "failed on laptop" in printed and "line 20\nthe driver is too old\n" in printed
    assert "line 5\n" not in printed and "remote-far-directml.log" in printed
    assert "line 5\n" in (far.output / "build" / "logs" / "remote-far-directml.log").read_text()


def test_a_script_that_is_killed_there_is_no_host_that_cannot_be_reached(far, host):
    host.give("echo out of memory; exit 255")  # as ssh itself ends where a signal has ended the program
    printed = far.fail("directml_host=laptop", "bench:far-directml")
    assert "failed on laptop" in printed and "out of memory" in printed and "could not be reached" not in printed


def test_a_result_of_the_host_s_processor_is_refused(far, host):
    host.give(MEASURE)
    printed = far.fail("directml_host=laptop", "bench:far-directml")
    assert "measured on CPU, not on DirectML" in printed


def test_a_host_without_the_result_is_an_error(far, host):
    host.give("true")
    assert "failed on laptop" in far.fail("directml_host=laptop", "bench:far-directml")


def test_a_machine_without_ssh_is_an_error_that_says_so(far, tmp_path):
    without = Builder(far.output, settings=far.settings | {"PATH": str(tmp_path)})
    assert "There is no program ssh here" in without.fail("directml_host=laptop", "bench:far-directml")
