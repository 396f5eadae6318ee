"""A small Hugging Face hub on loopback that takes uploads: repositories, branches, tags, commits, and large files in parts, with faults on
demand."""

import base64
import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import loopback

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


class Handler(loopback.Handler):
    state: Taking

    def do_GET(self):
        self.told = self.chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.body()
        asked = f"{self.command.replace('HEAD', 'GET')} {unquote(urlsplit(self.path).path)}"
        what, match = next(((w, m) for r, w in ROUTES.items() if (m := re.fullmatch(r, asked))), (None, None))
        self.state.asked[what or asked] += 1
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.state.tokens.add(token)
        if what is None:
            return self.answer(400, {"error": f"no {asked}"})
        if status := self.state.fault(what):
            return self.answer(status, {"error": "as the test says"})
        if self.command == "POST" and what not in ("validate", "whole") and token != TOKEN:
            return self.answer(401, {"error": "who?"})
        names = match.groupdict()
        if "repo" in names and names["repo"] not in self.state.refs:
            return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        return getattr(self, f"on_{what}")(**names)

    do_HEAD = do_POST = do_PUT = do_GET

    def chunks(self) -> bytes:
        """What came with the request, in pieces that say their lengths."""
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def answer(self, status: int, told, headers: dict[str, str] | None = None) -> None:
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        super().answer(status, body, (headers or {}).items())

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        return self.state.commits.get(self.state.refs[repo].get(revision, revision))

    def on_create(self):
        told = json.loads(self.told)
        repo = f"{told['organization']}/{told['name']}"
        if repo not in self.state.refs:
            self.state.write(repo, "main", {".gitattributes": b"*.onnx filter=lfs\n"})
        self.answer(200, {"url": f"{self.state.url}/{repo}", "name": repo})

    def on_validate(self):
        self.answer(200, {"errors": [], "warnings": []})

    def on_info(self, repo, revision):
        files = self.files(repo, revision)
        if files is None:
            return self.answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        sha = self.state.refs[repo].get(revision, revision)
        return self.answer(200, {"id": repo, "sha": sha, "siblings": [entry(*one) for one in files.items()]})

    def on_branch(self, repo, branch):
        self.state.refs[repo].setdefault(branch, self.state.refs[repo]["main"])
        self.answer(200, {})

    def on_tag(self, repo, revision):
        self.state.refs[repo][json.loads(self.told)["tag"]] = self.state.refs[repo].get(revision, revision)
        self.answer(200, {})

    def on_preupload(self, repo, revision):
        files = json.loads(self.told)["files"]
        modes = [(f["path"], "lfs" if f["path"].endswith(LARGE) else "regular") for f in files]
        self.answer(
            200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in modes]}
        )

    def on_batch(self, repo):
        objects = []
        for one in json.loads(self.told)["objects"]:
            if one["oid"] not in self.state.objects:
                count = -(-one["size"] // PART)
                parts = {f"{n:05}": f"{self.state.url}/parts/{one['oid']}/{n}" for n in range(1, count + 1)}
                href = f"{self.state.url}/whole/{one['oid']}"
                one = one | {"actions": {"upload": {"href": href, "header": parts | {"chunk_size": str(PART)}}}}
            objects.append(one)
        self.answer(200, {"transfer": "multipart", "objects": objects})

    def on_part(self, oid, number):
        self.state.parts[oid, int(number)] = self.told
        self.state.received += len(self.told)
        self.answer(200, b"", {"ETag": f'"{number}"'})

    def on_whole(self, oid):
        data = b"".join(self.state.parts[oid, one["partNumber"]] for one in json.loads(self.told)["parts"])
        assert hashlib.sha256(data).hexdigest() == oid
        self.state.objects[oid] = data
        self.answer(200, {})

    def on_commit(self, repo, branch):
        files = dict(self.files(repo, branch))
        for line in map(json.loads, self.told.splitlines()):
            told = line["value"]
            if line["key"] == "header" and told.get("parentCommit") != self.state.refs[repo][branch]:
                return self.answer(412, {"error": "it has moved"})
            if line["key"] == "file":
                files[told["path"]] = base64.b64decode(told["content"])
            if line["key"] == "lfsFile":
                files[told["path"]] = self.state.objects[told["oid"]]
            if line["key"] == "deletedFile":
                del files[told["path"]]
        oid = self.state.write(repo, branch, files)
        return self.answer(
            200, {"commitUrl": f"{self.state.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True}
        )

    def on_resolve(self, repo, revision, file):
        data = self.files(repo, revision)[file]
        one = entry(file, data)
        told = {"ETag": f'"{one["blobId"]}"', "X-Repo-Commit": self.state.refs[repo].get(revision, revision)}
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
    with loopback.serving(Handler, hub) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
