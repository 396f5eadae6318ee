"""A small Hugging Face hub on loopback that takes uploads: repositories, branches, tags, commits, and large files in parts, with faults on
demand."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"
PART = 20_000  # bytes of a large file in one request
LARGE = (".onnx", ".data")
ROUTES = {  # method and path -> what answers
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate",
    r"GET /api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>.+)": "info",
    r"POST /api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>.+)": "branch",
    r"POST /api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<revision>.+)": "tag",
    r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>.+)": "preupload",
    r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<branch>.+)": "commit",
    r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch": "batch",
    r"PUT /parts/(?P<oid>\w+)/(?P<number>\d+)": "part",
    r"POST /whole/(?P<oid>\w+)": "whole",
    r"GET /(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)": "resolve",
}


@dataclass
class Taking:
    """`fault`: what is asked -> a status to answer instead, or None."""

    fault: Callable[[str], int | None] = lambda what: None
    refs: dict[str, dict[str, str]] = field(default_factory=dict)  # repository -> branch or tag -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> its files
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by sha256
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    tokens: set[str | None] = field(default_factory=set)  # that came with requests
    received: int = 0  # bytes of large files
    url: str = ""

    def write(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """A commit, as somebody else would make it."""
        oid = hashlib.sha1(repr(sorted(files.items())).encode() + branch.encode()).hexdigest()
        self.commits[oid] = files
        self.refs.setdefault(repo, {})[branch] = oid
        return oid


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Taking, *args):
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        asked = f"{self.command.replace('HEAD', 'GET')} {unquote(urlsplit(self.path).path)}"
        what, match = next(((w, m) for r, w in ROUTES.items() if (m := re.fullmatch(r, asked))), (None, None))
        self.hub.asked[what or asked] += 1
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.tokens.add(token)
        if what is None:
            return self.answer(400, {"error": f"no {asked}"})
        if status := self.hub.fault(what):
            return self.answer(status, {"error": "as the test says"})
        if self.command == "POST" and what not in ("validate", "whole") and token != TOKEN:
            return self.answer(401, {"error": "who?"})
        names = match.groupdict()
        if "repo" in names and names["repo"] not in self.hub.refs:
            return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        return getattr(self, f"on_{what}")(**names)

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, status: int, told, headers: dict[str, str] | None = None) -> None:
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        return self.hub.commits.get(self.hub.refs[repo].get(revision, revision))

    def on_create(self):
        told = json.loads(self.body)
        repo = f"{told['organization']}/{told['name']}"
        if repo not in self.hub.refs:
            self.hub.write(repo, "main", {".gitattributes": b"*.onnx filter=lfs\n"})
        self.answer(200, {"url": f"{self.hub.url}/{repo}", "name": repo})

    def on_validate(self):
        self.answer(200, {"errors": [], "warnings": []})

    def on_info(self, repo, revision):
        files = self.files(repo, revision)
        if files is None:
            return self.answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        sha = self.hub.refs[repo].get(revision, revision)
        return self.answer(200, {"id": repo, "sha": sha, "siblings": [entry(*one) for one in files.items()]})

    def on_branch(self, repo, branch):
        self.hub.refs[repo].setdefault(branch, self.hub.refs[repo]["main"])
        self.answer(200, {})

    def on_tag(self, repo, revision):
        self.hub.refs[repo][json.loads(self.body)["tag"]] = self.hub.refs[repo].get(revision, revision)
        self.answer(200, {})

    def on_preupload(self, repo, revision):
        files = json.loads(self.body)["files"]
        modes = [(f["path"], "lfs" if f["path"].endswith(LARGE) else "regular") for f in files]
        self.answer(
            200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in modes]}
        )

    def on_batch(self, repo):
        objects = []
        for one in json.loads(self.body)["objects"]:
            if one["oid"] not in self.hub.objects:
                count = -(-one["size"] // PART)
                parts = {f"{n:05}": f"{self.hub.url}/parts/{one['oid']}/{n}" for n in range(1, count + 1)}
                href = f"{self.hub.url}/whole/{one['oid']}"
                one = one | {"actions": {"upload": {"href": href, "header": parts | {"chunk_size": str(PART)}}}}
            objects.append(one)
        self.answer(200, {"transfer": "multipart", "objects": objects})

    def on_part(self, oid, number):
        self.hub.parts[oid, int(number)] = self.body
        self.hub.received += len(self.body)
        self.answer(200, b"", {"ETag": f'"{number}"'})

    def on_whole(self, oid):
        data = b"".join(self.hub.parts[oid, one["partNumber"]] for one in json.loads(self.body)["parts"])
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.objects[oid] = data
        self.answer(200, {})

    def on_commit(self, repo, branch):
        files = dict(self.files(repo, branch))
        for line in map(json.loads, self.body.splitlines()):
            told = line["value"]
            if line["key"] == "header" and told.get("parentCommit") != self.hub.refs[repo][branch]:
                return self.answer(412, {"error": "it has moved"})
            if line["key"] == "file":
                files[told["path"]] = base64.b64decode(told["content"])
            if line["key"] == "lfsFile":
                files[told["path"]] = self.hub.objects[told["oid"]]
            if line["key"] == "deletedFile":
                del files[told["path"]]
        oid = self.hub.write(repo, branch, files)
        return self.answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def on_resolve(self, repo, revision, file):
        data = self.files(repo, revision)[file]
        one = entry(file, data)
        told = {"ETag": f'"{one["blobId"]}"', "X-Repo-Commit": self.hub.refs[repo].get(revision, revision)}
        if "lfs" in one:
            told |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{one["lfs"]["sha256"]}"'}
        self.answer(200, data, told)


def entry(name: str, data: bytes) -> dict:
    """Of a listing: a small file by git's digest, a large one by its own."""
    told = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    if not name.endswith(LARGE):
        return told
    own = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return told | {"blobId": hashlib.sha1(name.encode()).hexdigest(), "lfs": own}


@contextlib.contextmanager
def taking() -> Iterator[Taking]:
    """The hub, running until the block ends."""
    hub = Taking()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
