"""The docker runner: jobs as containers of an environment's image.

No network, a read-only root, and of the host's files those that the job names, at the paths they have there.
"""

import atexit
import contextlib
import functools
import os
import secrets
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnxmake.build import engine, image, locks, paths, process
from onnxmake.build.engine import engine_errors
from onnxmake.build.job import Job
from onnxmake.errors import EngineError, StepFailed

if TYPE_CHECKING:
    from docker.types import Mount

PROCESSES = 4096  # at most in a container; a runaway pass ends with an error, not the machine

_running: set["Container"] = set()


def _lines(connection: Any) -> Iterator[str]:
    """What the attached container says, lines of each of its two streams whole."""
    from docker.utils.socket import STDERR, STDOUT, frames_iter

    left = {STDOUT: b"", STDERR: b""}
    with contextlib.suppress(OSError, ValueError):  # closed on this side while it was read
        for stream, data in frames_iter(connection, tty=False):
            *whole, left[stream] = (left[stream] + data).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace") + "\n"
    yield from (rest.decode("utf-8", "replace") for rest in left.values() if rest)


class _Input:
    """The container's standard input; the engine closes it when this connection ends, as with this process."""

    def __init__(self, connection: Any):
        self._connection = getattr(connection, "_sock", connection)

    def write(self, text: str) -> None:
        self._connection.sendall(text.encode())

    def flush(self) -> None:
        pass


class Container:
    """A started container, used as a process is."""

    def __init__(self, identity: str, connection: Any, job: Job):
        self.identity, self._job, self._connection = identity, job, connection
        self.stdin = _Input(connection)
        self.stdout = _lines(connection)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises subprocess.TimeoutExpired, StepFailed if memory ran out, EngineError."""
        from requests.exceptions import ConnectionError, ReadTimeout

        api = engine.client().api
        with engine_errors("follow a step's container"):
            try:
                code = api.wait(self.identity, timeout=timeout)["StatusCode"]
            except (ReadTimeout, ConnectionError) as error:
                if "timed out" not in str(error).lower():
                    raise
                raise subprocess.TimeoutExpired(self._job.arguments, timeout) from None
            state = api.inspect_container(self.identity)["State"]
        code = 128 - code if code > 128 else code
        if self._job.memory_mb and (state["OOMKilled"] or code == -9):
            raise _out_of_memory(self._job)
        return code

    def end(self) -> None:
        _running.discard(self)
        with engine_errors("remove a step's container"):
            engine.remove(engine.client(), self.identity)


def _out_of_memory(job: Job) -> StepFailed:
    return StepFailed(
        f"The step ran out of memory: its container had {job.memory_mb:,} MB.",
        "The model needs more than its pass declares (MEMORY_MB), or something ended it.",
        "Give it more in the target: memory_mb = ... under this [[pass]].",
    )


def make_ready(env: str) -> None:
    """Raises EngineError, EnvironmentMissing."""
    _image(env)


def start(job: Job) -> Container:
    """A container for the job, attached before it starts, so that no line is lost. Raises EngineError, EnvironmentMissing."""
    made, client = _image(job.environment), engine.client()
    arguments = [*job.arguments, *(["container"] if job.code else [])]
    with engine_errors(f"start a container of the image {job.environment}"):
        identity = client.api.create_container(
            made,
            ["python", *arguments],
            name=f"onnxmake-{job.environment}-{secrets.token_hex(6)}",
            user=_user(),
            environment=_variables(job),
            working_dir=str(paths.ROOT),
            stdin_open=True,
            labels=engine.labels(locks.scratch(paths.CACHE)),
            host_config=_limits(client, job),
        )["Id"]
        try:
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            connection = client.api.attach_socket(identity, params=streams)
            getattr(connection, "_sock", connection).settimeout(None)
            client.api.start(identity)
        except BaseException:
            engine.remove(client, identity)
            raise
    container = Container(identity, connection, job)
    _running.add(container)
    return container


@functools.cache
def _image(env: str) -> str:
    """Its id; looked for once in a build. If it goes meanwhile, the engine says so."""
    return image.ensure(env)["id"]


@functools.cache
def _user() -> str:
    """The caller, whose the output then is. Where an engine runs without root, its containers' root is the caller."""
    rootless = any("rootless" in option for option in engine.client().info().get("SecurityOptions") or ())
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def _limits(client: Any, job: Job) -> dict[str, Any]:
    from docker.types import DeviceRequest

    memory = {"mem_limit": job.memory_mb * 1_000_000, "memswap_limit": job.memory_mb * 1_000_000}
    gpus = DeviceRequest(device_ids=[str(gpu) for gpu in job.gpus], capabilities=[["gpu"]])
    return client.api.create_host_config(
        network_mode="host" if job.network else "none",
        read_only=True,
        mounts=list(_mounts(job)),
        tmpfs={"/tmp": "rw,nosuid,nodev,mode=1777"},  # counts as memory; a step has a folder for what is large
        pids_limit=PROCESSES,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges", "label=disable"],
        init=True,
        log_config={"type": "none"},
        device_requests=[gpus] if job.gpus else None,
        **(memory if job.memory_mb else {}),
    )


def _mounts(job: Job) -> Iterator["Mount"]:
    """Binds of what the job reads and writes; links followed, as the engine does not know where they lead."""
    from docker.types import Mount

    write = dict.fromkeys((*job.write, process.kernel_cache(job.environment)))
    for path in dict.fromkeys((*job.read, *write)):
        yield Mount(path, os.path.realpath(path), type="bind", read_only=path not in write)


def _variables(job: Job) -> dict[str, str]:
    return {"HOME": "/tmp"} | process.variables(job.environment, job.network)


@atexit.register  # a step's own thread may not get to it
def _end_all() -> None:
    for container in list(_running):
        with contextlib.suppress(EngineError):  # gone, and its containers with it; or the next run removes them
            container.end()
