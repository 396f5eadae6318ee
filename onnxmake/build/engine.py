"""The container engine, by way of its own Python client, and its refusals as errors that say what to do."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from onnxmake.build import paths
from onnxmake.build.once import once
from onnxmake.errors import EngineError

if TYPE_CHECKING:
    from docker import DockerClient

GREETING, ANSWER = (
    20,
    600,
)  # seconds that the engine may take for its first answer, and for one: it may be writing gigabytes
SOCKETS = (  # Docker's; Docker Desktop's; Docker's and Podman's without root
    "/var/run/docker.sock",
    "~/.docker/run/docker.sock",
    "$XDG_RUNTIME_DIR/docker.sock",
    "$XDG_RUNTIME_DIR/podman/podman.sock",
)
CACHE, WORK = (
    "onnxmake.cache",
    "onnxmake.work",
)  # labels: whose container it is, and the folder that lives as long as its build
ELSEWHERE = "or build with runner=venv, which needs no engine"

# text of the engine's or the client's error -> fact, cause, action
REFUSALS = (
    (
        "FileNotFoundError|Connection ?refused|Error while fetching server API version.*No such file",
        "No container engine answers.",
        "None is installed, or it is not running.",
        f"Start it (`systemctl start docker`, Docker Desktop), set DOCKER_HOST, {ELSEWHERE}.",
    ),
    (
        "PermissionError|[Pp]ermission denied.*(socket|sock)",
        "This user may not use the container engine.",
        "Its socket belongs to another group.",
        f"Join that group (`sudo usermod -aG docker $USER`, then log in again), {ELSEWHERE}.",
    ),
    (
        "client version .* is too (new|old)|API versions below",
        "The container engine speaks another version of its API.",
        "It is much older or newer than the Python package docker.",
        f"Update the engine, or `pip install -U docker`; {ELSEWHERE}.",
    ),
    (
        "no space left on device",
        "The container engine's disk is full.",
        "Images and stopped containers fill it.",
        "Free space (`docker system df`, `docker system prune`), or move the engine's data-root.",
    ),
    (
        "could not select device driver|nvidia-container-cli|unresolvable CDI devices",
        "The container engine cannot give a container the GPU.",
        "The NVIDIA Container Toolkit is not installed or not known to the engine.",
        f"Install it and run `nvidia-ctk runtime configure --runtime=docker`, {ELSEWHERE}.",
    ),
    (
        "No such image",
        "An image that the build runs in is gone from the engine.",
        "Something removed it meanwhile.",
        "Build again: it is made again.",
    ),
)


@contextlib.contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turn what the engine or the way to it refuses into EngineError; `doing` says what was tried."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (DockerException, RequestException, HTTPError, ConnectionError) as error:
        text = f"{type(error).__name__}: {error}"
        for pattern, fact, cause, action in REFUSALS:
            if re.search(pattern, text, re.DOTALL):
                raise EngineError(f"Could not {doing}. {fact}", cause, action) from error
        raise EngineError(
            f"Could not {doing}: {getattr(error, 'explanation', None) or error}",
            "The container engine stopped, or refuses.",
            f"See the engine's log (`journalctl -u docker`), {ELSEWHERE}.",
        ) from error


@once
def client() -> "DockerClient":
    """One for all threads: connected, on an API version that both know, leftovers of dead builds removed. Raises EngineError."""
    import docker

    if os.name == "nt":
        raise EngineError(
            "Steps do not run in containers on Windows.", "Its paths do not exist in them.", "Build with runner=venv."
        )
    with engine_errors("reach the container engine"):
        told = {"DOCKER_HOST": address()} if address() else {}
        connected = docker.from_env(timeout=GREETING, environment=os.environ | told)
        kind = connected.version()["Os"]
        if kind != "linux":
            raise EngineError(
                f"The container engine runs {kind} containers.",
                "Docker Desktop was switched to them.",
                f"Switch it to Linux containers, {ELSEWHERE}.",
            )
        connected.api.timeout = ANSWER
        _reap(connected)
    return connected


def may_answer() -> bool:
    """Whether it is worth asking."""
    return bool(address()) or os.name == "nt"


def address() -> str:
    """Where a person says that the engine is, or the first usual socket that is there; the client knows the first of them only."""
    places = (os.path.expanduser(os.path.expandvars(place)) for place in SOCKETS)
    return os.environ.get("DOCKER_HOST") or next((f"unix://{path}" for path in places if os.path.exists(path)), "")


def labels(work: Path) -> dict[str, str]:
    """For a container of this build, whose working folder `work` is."""
    return {CACHE: f"{socket.gethostname()}:{paths.CACHE}", WORK: str(work)}


def _reap(connected: "DockerClient") -> None:
    """Remove containers whose build was killed: its working folder is gone, swept as every run begins."""
    for found in connected.api.containers(all=True, filters={"label": f"{CACHE}={labels(Path())[CACHE]}"}):
        if not Path(found["Labels"][WORK]).exists():
            remove(connected, found["Id"])


def remove(connected: "DockerClient", container: str) -> None:
    """Kill and forget a container, though another may just be doing so."""
    from docker.errors import APIError, NotFound

    try:
        connected.api.remove_container(container, force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if error.response.status_code != 409:  # removal is already in progress
            raise
