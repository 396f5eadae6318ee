"""A real registry on loopback (Debian's docker-registry), behind a proxy that counts what passes and fails on demand."""

import contextlib
import http.client
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, PASSWORD = "someone", "s3cret-of-the-test"
HASHED = "someone:$2y$05$hQPazglfDVkHNuo3GjAFAe4SnuYIousROjcZBZRZ1afFYsMSPu9Km"  # bcrypt of it


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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: Proxy, *args):
        self.proxy = proxy
        super().__init__(*args)

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.proxy.seen.append(dict(self.headers))
        fault = self.proxy.fault(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "cut":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if isinstance(fault, int):
            self.answer(fault, [("Range", "0-0")], b"")
            return
        link = http.client.HTTPConnection("127.0.0.1", self.proxy.behind, timeout=20)
        link.request(self.command, self.path, body, dict(self.headers))
        answer = link.getresponse()
        told = answer.read()
        link.close()
        self.proxy.passed.append((self.command, self.path, len(body), answer.status))
        if fault == "deaf":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.answer(answer.status, answer.getheaders(), told)

    do_HEAD = do_POST = do_PATCH = do_PUT = do_GET

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, proxy)) as server:
        proxy.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
