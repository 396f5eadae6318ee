"""Cut a step off: no network, no file but those it is given, no process that outlives it. Linux namespaces.

A guard against mistakes, not against malice: a pass that reads what its key does not name fails on every machine.
"""

import ctypes
import glob
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
RDONLY, REMOUNT, BIND, REC, PRIVATE = 1, 32, 4096, 16384, 1 << 18
KEPT = {
    2: 2,
    4: 4,
    8: 8,
    1024: 1024,
    2048: 2048,
    4096: 1 << 21,
}  # statvfs flag -> mount flag that a remount must repeat
DEATH_SIGNAL = 1  # prctl: be killed when the parent ends

SYSTEM = [f"/usr/{name}" for name in ("bin", "lib", "lib32", "lib64", "libexec", "local", "share")]
SYSTEM += ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives", "/sys"]
DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/nvidia*"]


def _call(name: str, *arguments) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _call(
        "mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data and data.encode()
    )


def enter() -> str | None:
    """Go on in a process of its own namespaces, before there is a second thread. Returns None, or why this system refuses.

    This process waits and ends as the step does; a child makes the namespaces, where a first process ends with the step and
    takes along whatever it left running. Where they are refused, this process goes on as it was.
    """
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with open(reader) as told:
            refused = told.read()
        if refused:
            os.waitpid(child, 0)
            return refused
        code = _wait(child)
        if code > 128:
            os.kill(os.getpid(), code - 128)
        os._exit(code)
    _call("prctl", DEATH_SIGNAL, signal.SIGKILL)
    try:
        _unshare()
    except OSError as error:
        os.write(writer, (error.strerror or str(error)).encode())
        os._exit(0)
    os.close(reader)
    os.close(writer)
    for _ in ("the first of the process namespace", "the step"):
        if child := os.fork():
            os._exit(_wait(child))
        _call("prctl", DEATH_SIGNAL, signal.SIGKILL)
    return None


def _unshare() -> None:
    """Raises OSError."""
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", NEWNS | NEWPID | NEWNET)
    except PermissionError:
        _call("unshare", NEWUSER | NEWNS | NEWPID | NEWNET)
        maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for name, text in maps.items():
            Path("/proc/self", name).write_text(text)
    _mount("none", "/", None, REC | PRIVATE)


def _wait(child: int) -> int:
    """Reap processes until `child` has ended; returns its exit code, or 128 + the signal that ended it."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def confine(work: Path, read: Iterable[str], write: Iterable[str]) -> None:
    """Let only the system's libraries, `read` (read-only) and `write` exist from here on, at the paths they have.

    `work`/tmp is also /tmp. Anything else is a FileNotFoundError, a write elsewhere a read-only file system.
    """
    root = str(work / "root")
    os.mkdir(root)
    _mount("tmpfs", root, "tmpfs", 0, "size=16m,mode=755")
    _bind(str(work / "tmp"), f"{root}/tmp")  # first: other paths may be below it
    devices = [path for pattern in DEVICES for path in glob.glob(pattern)]
    for path in sorted({*SYSTEM, *read}, key=lambda p: p.count("/")):
        if os.path.islink(path) and path in SYSTEM:
            os.symlink(os.readlink(path), root + path)
        elif os.path.exists(path):
            _bind(path, root + path, read_only=True)
    for path in [*write, *devices]:
        _bind(path, root + path)
    for name in ("shm", "proc"):
        os.makedirs(f"{root}/{'dev/' * (name == 'shm')}{name}")
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", 0)
    try:
        _mount("proc", f"{root}/proc", "proc", 0)
    except PermissionError:  # inside a container that hides parts of its own
        _mount("/proc", f"{root}/proc", None, BIND | REC)
    _mount("none", root, None, REMOUNT | RDONLY | BIND)
    os.chroot(root)
    os.chdir(work)


def _bind(path: str, place: str, read_only: bool = False) -> None:
    """Show what is at `path`, links followed, at `place`."""
    source = os.path.realpath(path)
    if not os.path.exists(place):
        os.makedirs(place if os.path.isdir(source) else os.path.dirname(place), exist_ok=True)
        if not os.path.isdir(source):
            open(place, "x").close()
    _mount(source, place, None, BIND | REC)
    if read_only:
        flags = os.statvfs(place).f_flag
        _mount("none", place, None, REMOUNT | BIND | RDONLY | sum(m for f, m in KEPT.items() if flags & f))
