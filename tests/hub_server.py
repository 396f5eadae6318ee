"""A small Hugging Face hub on loopback.

A folder served as one repository, of a model or a dataset, at one commit, with faults on demand.
"""

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO, COMMIT = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/(?:models|datasets)/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
OLDER = re.compile(rf"/api/datasets/{REPO.split('/')[1]}(?P<rest>/revision/.+)")  # from when names had no owner
RESOLVE = re.compile(r"/(?:datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Hub:
    """What the hub serves and how it fails.

    `requests` counts by path, `sent` the body bytes by file, `starts` lists where each GET of a file began.
    """

    folder: Path
    token: str | None = None  # asked of every request
    branches: tuple[str, ...] = ("main",)  # names of the commit
    gated: bool = False  # the listing is public, the files are not
    cut: dict[str, int] = field(default_factory=dict)  # file -> bytes after which the connection of its first GET ends
    reset: bool = False  # cut with a TCP reset
    corrupt: dict[str, int] = field(default_factory=dict)  # file -> how many GETs of it have a flipped byte
    requests: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    starts: dict[str, list[int]] = field(default_factory=dict)
    url: str = ""

    def files(self) -> dict[str, Path]:
        return {p.relative_to(self.folder).as_posix(): p for p in sorted(self.folder.rglob("*")) if p.is_file()}

    def info(self) -> dict:
        return {
            "id": REPO,
            "sha": COMMIT,
            "siblings": [sibling(name, path.read_bytes()) for name, path in self.files().items()],
        }


def sibling(name: str, data: bytes) -> dict:
    """A file's entry in the listing.

    The blob of a large file is its pointer, so its digest says nothing about the content.
    """
    if not name.endswith((".safetensors", ".parquet")):
        return {
            "rfilename": name,
            "size": len(data),
            "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        }
    return {
        "rfilename": name,
        "size": len(data),
        "blobId": hashlib.sha1(name.encode()).hexdigest(),
        "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134},
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args):
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests[path] += 1
        match = API.fullmatch(path) or RESOLVE.fullmatch(path)
        asked = match.groupdict() if match else {"repo": None}
        authorization = self.headers.get("Authorization")
        if older := OLDER.fullmatch(path):
            self.answer(307, b"", {"Location": f"/api/datasets/{REPO}{older['rest']}"})
        elif asked["repo"] != REPO:
            self.refuse(404, "RepoNotFound")
        elif self.hub.token and authorization != f"Bearer {self.hub.token}":
            self.refuse(401, "" if authorization else "RepoNotFound")
        elif asked["revision"] not in (COMMIT, *self.hub.branches):
            self.refuse(404, "RevisionNotFound")
        elif "file" not in asked:
            self.answer(200, json.dumps(self.hub.info()).encode(), {"Content-Type": "application/json"})
        elif self.hub.gated:
            self.refuse(403, "GatedRepo")
        elif asked["file"] not in self.hub.files():
            self.refuse(404, "EntryNotFound")
        else:
            self.resolve(asked["file"], self.hub.files()[asked["file"]].read_bytes())

    do_HEAD = do_GET

    def refuse(self, status: int, code: str) -> None:
        self.answer(
            status,
            b"",
            {"X-Error-Code": code} if code else {"X-Error-Message": "Invalid credentials in Authorization header"},
        )

    def resolve(self, name: str, data: bytes) -> None:
        entry = sibling(name, data)
        headers = {"ETag": f'"{entry["blobId"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{entry["lfs"]["sha256"]}"'}
        status, start = 200, 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.hub.starts.setdefault(name, []).append(start)
            if self.hub.corrupt.get(name, 0) > 0:
                self.hub.corrupt[name] -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
        self.answer(status, data[start:], headers, name)

    def answer(self, status: int, body: bytes, headers: dict[str, str], name: str = "") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = self.hub.cut.pop(name, None)
        self.wfile.write(body[:end])
        self.hub.sent[name] += len(body[:end])
        if end is None:
            return
        self.close_connection = True
        if self.hub.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())


@contextlib.contextmanager
def serve(folder: Path, **faults) -> Iterator[Hub]:
    """The hub, running until the block ends."""
    hub = Hub(folder, **faults)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
