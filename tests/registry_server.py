"""A real registry on loopback (Debian's docker-registry), behind a proxy that counts what passes and fails on demand."""

import contextlib
import http.client
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import loopback

USER, PASSWORD = "someone", "s3cret-of-the-test"
HASHED = "someone:$2y$05$hQPazglfDVkHNuo3GjAFAe4SnuYIousROjcZBZRZ1afFYsMSPu9Km"  # bcrypt of it

OWN = ("content-length", "transfer-encoding", "connection", "date", "server")  # headers that each server says itself


@dataclass
class Proxy:
    """`fault`: method, path -> a status to answer in the registry's place, "cut" (the registry never sees the request), "deaf" (the
    caller never sees the answer), or None."""

    behind: int
    fault: Callable[[str, str], int | str | None] = lambda method, path: None
    passed: list[tuple[str, str, int, int]] = field(default_factory=list)  # method, path, bytes of the body, status
    seen: list[dict[str, str]] = field(default_factory=list)  # headers
    host: str = ""

    def sent(self) -> int:
        """Bytes of blobs that have arrived."""
        return sum(size for method, _, size, _ in self.passed if method in ("PATCH", "PUT"))

    def count(self, method: str, part: str = "") -> int:
        return sum(m == method and part in path for m, path, _, _ in self.passed)


class Handler(loopback.Handler):
    state: Proxy

    def do_GET(self):
        self.state.seen.append(dict(self.headers))
        fault = self.state.fault(self.command, self.path)
        body = self.body()
        if fault == "cut":
            return self.hang_up()
        if isinstance(fault, int):
            return self.answer(fault, headers=[("Range", "0-0")])
        link = http.client.HTTPConnection("127.0.0.1", self.state.behind, timeout=20)
        link.request(self.command, self.path, body, dict(self.headers))
        answer = link.getresponse()
        told = answer.read()
        link.close()
        self.state.passed.append((self.command, self.path, len(body), answer.status))
        if fault == "deaf":
            return self.hang_up()
        return self.answer(answer.status, told, [one for one in answer.getheaders() if one[0].lower() not in OWN])

    do_HEAD = do_POST = do_PATCH = do_PUT = do_GET

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@contextlib.contextmanager
def registry(folder: Path, closed: bool = False) -> Iterator[int]:
    """Its port. `closed`: it asks who one is."""
    folder.mkdir()
    port = free_port()
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}\nhttp: {{addr: '127.0.0.1:{port}', secret: fixed}}\n"
        + (f"auth: {{htpasswd: {{realm: here, path: {folder}/users}}}}\n" if closed else "")
    )
    (folder / "users").write_text(f"{HASHED}\n")
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(500):
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    with loopback.serving(Handler, proxy) as server:
        proxy.host = f"127.0.0.1:{server.server_port}"
        yield proxy
