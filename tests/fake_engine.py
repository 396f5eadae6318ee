"""A container engine of a table: on a socket of its own it answers what a test says, and notes what it was asked."""

import contextlib
import json
import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import loopback

API = "1.45"
CUT = 0  # in place of a status: the connection ends in the middle of the answer
ATTACHED = 101  # what follows are a container's streams
PREFIX = re.compile(r"/v[0-9.]+(?=/)")
Answers = dict[tuple[str, str], tuple[int, Any]]


class Asked(NamedTuple):
    """One request: `path` without the API's version."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class Engine:
    """(method, pattern of the path, with or without the API's version) -> status and value; of those that match the one
    added last. A value is JSON, a tuple of JSON values to be streamed, bytes as they are, or a function of the request."""

    answers: Answers = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    socket: Path = Path()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def answer(self, asked: Asked, whole: str) -> tuple[int, Any]:
        for (method, pattern), (status, value) in reversed(self.answers.items()):
            if method == asked.method and (re.fullmatch(pattern, asked.path) or re.fullmatch(pattern, whole)):
                return status, value(asked) if callable(value) else value
        return 501, {"message": f"this test has no answer to {method} {asked.path}"}

    def of(self, method: str, pattern: str = ".*") -> list[Asked]:
        """What was asked with a method, in order."""
        return [asked for asked in self.asked if asked.method == method and re.fullmatch(pattern, asked.path)]

    def paths(self, method: str) -> list[str]:
        return [asked.path for asked in self.of(method)]


def healthy() -> Answers:
    """An engine without containers or images."""
    version = {"ApiVersion": API, "MinAPIVersion": "1.24", "Version": "26.1.0", "Os": "linux", "Arch": "amd64"}
    return {
        ("GET", "/version"): (200, version),
        ("GET", "/info"): (200, {"SecurityOptions": ["name=seccomp,profile=builtin"]}),
        ("GET", "/containers/json"): (200, []),
        ("GET", "/images/.*/json"): (404, {"message": "No such image: it"}),
    }


class Handler(loopback.Handler):
    state: Engine

    def do_GET(self):
        url = urlsplit(self.path)
        whole = unquote(url.path)
        asked = Asked(self.command, PREFIX.sub("", whole, count=1), dict(parse_qsl(url.query)), self.given())
        self.state.asked.append(asked)
        status, value = self.state.answer(asked, whole)
        if status == ATTACHED:
            self.attach(asked, value)
        else:
            self.reply(status, value)

    do_POST = do_DELETE = do_HEAD = do_GET

    def given(self) -> Any:
        """What came with the request: JSON, or bytes."""
        data = self.body()
        return json.loads(data) if data and self.headers.get("Content-Type") == "application/json" else data

    def attach(self, asked: Asked, said: bytes) -> None:
        """Lend the connection to a container that reads one line, says what it has to say, and ends."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        self.state.asked.append(Asked("STDIN", asked.path, {}, self.rfile.readline()))
        if said:
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(struct.pack(">BxxxL", 1, len(said)) + said)

    def reply(self, status: int, value: Any) -> None:
        streamed, plain = isinstance(value, tuple), isinstance(value, bytes)
        data = (
            value if plain else b"".join(map(chunk, value)) + b"0\r\n\r\n" if streamed else json.dumps(value).encode()
        )
        data = b"" if status == 204 else data
        self.send_response(status or 200)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header(*("Transfer-Encoding", "chunked") if streamed else ("Content-Length", str(len(data))))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if status == CUT else data)
        self.close_connection = status == CUT


def chunk(value: Any) -> bytes:
    data = json.dumps(value).encode() + b"\r\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


class Server(ThreadingUnixStreamServer):
    daemon_threads = True  # clients keep their connections


@contextlib.contextmanager
def serve(answers: Answers | None = None) -> Iterator[Engine]:
    """A healthy engine with these answers beside, running until the block ends."""
    engine = Engine(healthy() | (answers or {}))
    with tempfile.TemporaryDirectory() as folder:  # short, as a socket's path must be
        engine.socket = Path(folder) / "engine.sock"
        with loopback.running(Server(str(engine.socket), partial(Handler, engine))):
            yield engine
