"""Run a bundle on another machine over ssh, with the user's own client, keys and configuration."""

import subprocess
from pathlib import Path

from onnxmake.build import paths
from onnxmake.build.files import open_log
from onnxmake.build.report import say
from onnxmake.build.settings import setting
from onnxmake.errors import EnvironmentMissing, StepFailed

PLACE = "onnxmake-bundles"  # in the remote home
UNREACHABLE = 255  # ssh's own exit code; also where a signal has ended the program there
COMMANDS = {"run.ps1": "powershell -NoProfile -ExecutionPolicy Bypass -File", "run.sh": "sh"}


def host(device: str) -> str:
    """USER@HOST that has the device, as `directml_host=` or ONNXMAKE_DIRECTML_HOST says; empty where none is set."""
    return setting(f"{device}_host")


def run(machine: str, bundle: Path) -> Path:
    """Copy the bundle there, run its script, and bring back result.json. Raises EnvironmentMissing, StepFailed."""
    there, log = f"{PLACE}/{bundle.name}", paths.BUILD / "logs" / f"remote-{bundle.name}.log"
    script = next(name for name in COMMANDS if (bundle / name).exists())
    say(f"{bundle.name}: on {machine} ...")
    open_log(log).close()
    _do(["ssh", machine, f"mkdir {PLACE}"], machine, log, first=True)
    _do(["scp", "-r", "-q", str(bundle), f"{machine}:{PLACE}/"], machine, log)
    _do(["ssh", machine, f"{COMMANDS[script]} {there}/{script}"], machine, log)
    _do(["scp", "-q", f"{machine}:{there}/result.json", str(bundle)], machine, log)
    return bundle / "result.json"


def _do(command: list[str], machine: str, log: Path, first: bool = False) -> None:
    """Without a question: nobody is there to answer it. The `first` one may find that its folder is there, or no machine."""
    program, *rest = command
    configured = ["-F", setting("ssh_config")] if setting("ssh_config") else []
    try:
        with open(log, "ab") as file:
            done = subprocess.run(
                [program, *configured, "-o", "BatchMode=yes", *rest],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
    except FileNotFoundError:
        raise EnvironmentMissing(
            f"There is no program {program} here.", "OpenSSH's client is not installed.", "Install it."
        ) from None
    if done.returncode == 0 or first and done.returncode == 1:
        return
    tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-8:])
    if first and done.returncode == UNREACHABLE:
        raise EnvironmentMissing(
            f"{machine} could not be reached:\n{tail}",
            "It is off, its name is wrong, or it does not take this user's key.",
            f"Try `ssh {machine}` by hand.",
        )
    raise StepFailed(
        f"{' '.join(command[:1])} failed on {machine}; its last lines:\n{tail}",
        "The bundle's script ended with an error there, or the connection was lost.",
        f"Read {paths.shown(log)}.",
    )
