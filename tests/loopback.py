"""HTTP servers of tests on loopback: quiet, and running as long as a block."""

import contextlib
import socketserver
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """`state` is what the test and the server share. One connection serves many requests."""

    protocol_version = "HTTP/1.1"

    def __init__(self, state: Any, *args):
        self.state = state
        super().__init__(*args)

    def log_message(self, format, *args):
        pass

    def body(self) -> bytes:
        """What came with the request, of a stated length."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(
        self, status: int, body: bytes = b"", headers: Iterable[tuple[str, str]] = (), end: int | None = None
    ) -> None:
        """`end`: bytes of the body after which the connection breaks."""
        self.send_response(status)
        for name, value in [("Content-Length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:end])
            self.close_connection |= end is not None


@contextlib.contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    """The server answers until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def serving(handler: type[Handler], state: Any) -> Iterator[ThreadingHTTPServer]:
    """On a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, state))
    with running(server):
        yield server
