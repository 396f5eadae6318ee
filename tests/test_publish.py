"""Publishing a release: to a real registry that is behind a failing line, and to a folder."""

import base64
import hashlib
import json
import shutil
import ssl
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import oras.provider
import pytest
from registry_server import PASSWORD, USER, free_port, proxied, registry
from releasing import MODEL, NAME, WEIGHTS, content, make_release

from onnxmake.__main__ import main
from onnxmake.build import paths
from onnxmake.build.misnamed import misnamed_by
from onnxmake.build.plan import Plan
from onnxmake.errors import CheckFailed, EnvironmentMissing, OnnxmakeError, PublishError, StoreError, TargetError
from onnxmake.release import blobs, oci, publish, received, signature, sums
from onnxmake.release import registry as transport
from onnxmake.release.found import releases

TAG = "1.0.0"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry") / "open") as port:
        yield port


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry") / "closed", closed=True) as port:
        yield port


@pytest.fixture
def line(port):
    with proxied(port) as proxy:
        yield proxy


@pytest.fixture
def release(output):
    return make_release()


@pytest.fixture
def repository(request):
    """A new one for each test."""
    return f"models/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No credentials of the user's, no waiting, and chunks of which the weights take seven."""
    for name in ("ORAS_USER", "ORAS_PASS", "ONNXMAKE_TO", "ONNXMAKE_GO", "ONNXMAKE_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(transport, "PAUSE", 0)
    monkeypatch.setattr(blobs, "CHUNK", 8000)


@pytest.fixture
def go(monkeypatch, capfd):
    """Publish to an address; gives what was printed."""

    def publishes(to: str, go: str = "yes", version: str = "", name: str = NAME) -> str:
        for key, value in {"TO": to, "GO": go, "VERSION": version}.items():
            monkeypatch.setenv(f"ONNXMAKE_{key}", value)
        publish.publish(name)
        return capfd.readouterr().out

    return publishes


def logged_in(folder: Path, host: str, user: str = USER, password: str = PASSWORD) -> None:
    (folder / "docker").mkdir(exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def pulled(host: str, repository: str, out: Path, tag: str = TAG) -> Path:
    """As `oras pull` gives it."""
    oras.provider.Registry(host, insecure=True).pull(f"{host}/{repository}:{tag}", outdir=str(out))
    return out


def verified(folder: Path, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxmake", "verify", str(folder)])
    return main()


def test_a_registry_gives_back_what_was_released(line, repository, release, go, tmp_path, monkeypatch):
    out = go(f"oci://{line.host}/{repository}")
    layout = oci.read(release.layout, release.folder)
    assert f"{repository}:{TAG}@sha256:{layout.digest}" in out and "0 files there before" in out
    got = pulled(line.host, repository, tmp_path / "pulled")
    assert content(got) == content(release.folder) and verified(got, monkeypatch) == 0
    answer = oras.provider.Registry(line.host, insecure=True).session.get(
        f"http://{line.host}/v2/{repository}/manifests/{TAG}", headers={"Accept": oci.MANIFEST}
    )
    assert answer.content == layout.manifest
    assert line.count("PATCH") == 6 and not list((paths.BUILD / "publish").iterdir())


def test_the_config_names_the_release(line, repository, release, go):
    go(f"oci://{line.host}/{repository}")
    client = oras.provider.Registry(line.host, insecure=True)
    container = client.get_container(f"{line.host}/{repository}:{TAG}")
    config = client.get_blob(container, client.get_manifest(container)["config"]["digest"]).json()
    assert config["descriptor"] == {"name": NAME, "version": TAG, "licenses": ["mit"]}


def test_a_second_time_nothing_is_sent(line, repository, release, go):
    go(f"oci://{line.host}/{repository}")
    line.passed.clear()
    assert "is there already, the same" in go(f"oci://{line.host}/{repository}")
    assert {method for method, *_ in line.passed} == {"GET"} and len(line.passed) == 1


def test_what_is_shared_with_another_version_is_not_sent_again(line, repository, release, go):
    go(f"oci://{line.host}/{repository}")
    make_release("1.0.1")
    line.passed.clear()
    assert "5 files there before" in go(
        f"oci://{line.host}/{repository}", version="1.0.1"
    )  # the model, its card, its provenance
    assert line.sent() < 5000


def test_a_version_is_of_one_content(line, repository, release, go):
    go(f"oci://{line.host}/{repository}")
    shutil.rmtree(release.folder)
    shutil.rmtree(release.layout)
    make_release(weights=b"other")
    line.passed.clear()
    for sends in ("no", "yes"):
        with pytest.raises(StoreError, match="1.0.0 is there already, and it is another one"):
            go(f"oci://{line.host}/{repository}", sends)
    assert not line.sent()
    assert "manifest" not in go(f"oci://{line.host}/{repository}:other")


def test_it_says_what_it_would_send_and_sends_nothing(line, repository, release, go):
    to = f"oci://{line.host}/{repository}"
    out = go(to, "no")
    assert all(name in out for name in (*MODEL, "config", "manifest")) and "there already" not in out
    assert out.count("to be sent") == len(content(release.folder)) + 2
    assert out.endswith(f"doit publish:{NAME} version=1.0.0 to={to} go=yes\n")
    go(to)
    assert go(to, "no").count("there already") == len(content(release.folder)) + 2
    assert line.count("PUT", "manifests") == 1


def test_the_first_look_writes_nothing(line, repository, release, go):
    go(f"oci://{line.host}/{repository}", "no")
    assert {method for method, *_ in line.passed} == {"GET", "HEAD"}


def test_a_server_that_dies_goes_on_with_what_it_has(line, repository, release, go, tmp_path):
    seen = Counter()

    def dies(method, path):
        seen[method] += 1
        return "cut" if seen["PUT"] > 3 else None

    line.fault = dies
    with pytest.raises(PublishError, match="failed 5 times") as caught:
        go(f"oci://{line.host}/{repository}")
    assert "what has arrived is kept" in caught.value.action
    before = line.sent()
    line.fault = lambda method, path: None
    out = go(f"oci://{line.host}/{repository}")
    assert "3 files there before" in out
    layout = oci.read(release.layout, release.folder)
    assert line.sent() == sum(b.size for b in layout.blobs) + len(layout.manifest) and before
    assert content(pulled(line.host, repository, tmp_path / "pulled")) == content(release.folder)


def test_a_run_that_was_ended_within_a_file_goes_on_there(line, repository, release, go):
    chunks = Counter()

    def ends(method, path):
        chunks[method] += 1
        if method == "PATCH" and chunks[method] == 4:
            raise KeyboardInterrupt
        return

    real = blobs._chunk

    def chunk(*arguments):
        chunks["chunk"] += len(arguments[4]) == 8000
        if chunks["chunk"] == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blobs, "_chunk", chunk)
        with pytest.raises(KeyboardInterrupt):
            go(f"oci://{line.host}/{repository}")
    (note,) = (paths.BUILD / "publish").iterdir()
    assert note.parent.stat().st_mode & 0o077 == 0
    go(f"oci://{line.host}/{repository}")
    layout = oci.read(release.layout, release.folder)
    assert line.sent() == sum(b.size for b in layout.blobs) + len(layout.manifest)
    assert not note.exists()


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "deaf"])
@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PATCH", "PUT"])
def test_a_failure_now_and_then_is_no_matter(line, repository, release, go, fault, method, tmp_path):
    seen = Counter()

    def fails(asked, path):
        seen[asked] += 1
        return fault if asked == method and seen[asked] in (1, 3) else None

    line.fault = fails
    go(f"oci://{line.host}/{repository}")
    line.fault = lambda method, path: None
    assert content(pulled(line.host, repository, tmp_path / "pulled")) == content(release.folder)


def test_an_upload_that_the_registry_forgot_begins_anew(line, repository, release, go):
    seen = Counter()

    def forgets(method, path):
        seen[method] += 1
        return 404 if method == "PATCH" and seen[method] == 3 else None

    line.fault = forgets
    assert "0 files there before" in go(f"oci://{line.host}/{repository}")


@pytest.mark.parametrize(("fault", "told"), [(500, "500"), ("deaf", "ConnectionError"), (202, "it keeps nothing of")])
def test_a_registry_that_fails_for_good_is_named(line, repository, release, go, fault, told):
    line.fault = lambda method, path: fault if method == "PATCH" else None
    with pytest.raises(PublishError, match=rf"{line.host} failed 5 times; the last: {told}") as caught:
        go(f"oci://{line.host}/{repository}")
    assert "try again later" in caught.value.action


def test_no_answer_is_named_and_does_not_hinder_a_look(release, go):
    to = f"oci://127.0.0.1:{free_port()}/a/b"
    with pytest.raises(PublishError, match="failed 5 times.*Connection refused"):
        go(to)
    out = go(to, "no")
    assert "What is there is not known" in out and "not known" in out.splitlines()[2]


@pytest.mark.parametrize(
    ("status", "says"), [(403, "may not do that"), (404, "no registry"), (413, "no files of that size")]
)
def test_a_refusal_is_not_repeated(line, repository, release, go, status, says):
    asked = Counter()

    def refuses(method, path):
        asked[method] += 1
        return status if method == "POST" else None

    line.fault = refuses
    with pytest.raises(PublishError, match=f"refuses to take a file: {status}") as caught:
        go(f"oci://{line.host}/{repository}")
    assert says in caught.value.cause and asked["POST"] == 1


def test_credentials_are_docker_s_or_two_variables_and_are_not_printed(
    closed, repository, release, go, tmp_path, monkeypatch, capfd
):
    with proxied(closed) as line:
        to = f"oci://{line.host}/{repository}"
        with pytest.raises(PublishError, match="refuses to say what 1.0.0 is: 401") as caught:
            go(to)
        assert "docker login" in caught.value.action
        logged_in(tmp_path, line.host, password="wrong")
        with pytest.raises(PublishError, match="401"):
            go(to)
        logged_in(tmp_path, line.host)
        line.seen.clear()
        assert "What is there is not known" in go(to, "no")
        assert not any("Authorization" in headers for headers in line.seen)
        out = go(to)
        assert any("Authorization" in headers for headers in line.seen)
        (tmp_path / "docker" / "config.json").unlink()
        monkeypatch.setenv("ORAS_USER", USER)
        monkeypatch.setenv("ORAS_PASS", PASSWORD)
        assert "the same" in go(to)
    printed = out + "".join(capfd.readouterr())
    assert PASSWORD not in printed and base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in printed


def test_credentials_go_to_the_registry_alone(closed, repository, release, go, tmp_path, monkeypatch):
    """An upload's address may be another host's."""
    with proxied(closed) as line:
        logged_in(tmp_path, line.host)
        client = transport.Registry(line.host, repository, known=True)
        client.request("GET", "tags/list")
        line.seen.clear()
        other = f"localhost:{line.host.rpartition(':')[2]}"
        assert client.request("GET", f"http://{other}/v2/").status_code == 401
        assert "Authorization" not in line.seen[-1]


class Tokens(BaseHTTPRequestHandler):
    """A registry that hands out a token for a name and a password, and is empty."""

    realm = ""

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        given = self.headers.get("Authorization", "")
        if self.path.startswith("/token"):
            known = given == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            return self.answer(200 if known else 401, json.dumps({"token": "of-today"}).encode())
        if given != "Bearer of-today":
            return self.answer(401, b"{}", f'Bearer realm="{self.realm}",service="here",scope="repository:a:pull"')
        return self.answer(404, b"{}")

    def answer(self, status: int, body: bytes, challenge: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if challenge:
            self.send_header("Www-Authenticate", challenge)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def tokens():
    with ThreadingHTTPServer(("127.0.0.1", 0), Tokens) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def test_a_registry_of_tokens_gets_credentials_at_a_safe_address_only(tokens, release, tmp_path, monkeypatch):
    host = f"127.0.0.1:{tokens.server_port}"
    logged_in(tmp_path, host)
    monkeypatch.setattr(Tokens, "realm", f"http://{host}/token")
    assert transport.Registry(host, "a", known=True).request("GET", "tags/list").status_code == 404
    monkeypatch.setattr(Tokens, "realm", "http://elsewhere.example/token")
    with pytest.raises(PublishError, match="over plain http"):
        transport.Registry(host, "a", known=True).request("GET", "tags/list")


def test_only_this_machine_is_spoken_to_without_tls(release):
    assert [transport.plain(h) for h in ("localhost:5000", "127.0.0.1", "[::1]:5000")] == [True] * 3
    for host in ("127.0.0.1.example.org", "registry.example.org:5000", "localhost.example.org"):
        assert transport.Registry(host, "a", known=False).url == f"https://{host}/v2/a"


def test_a_certificate_of_nobody_known_is_refused(release, go, tmp_path, monkeypatch, tokens):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    named = ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    subprocess.run([*make, *named], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tokens.socket = context.wrap_socket(tokens.socket, server_side=True)
    monkeypatch.setattr(transport, "plain", lambda host: False)
    with pytest.raises(PublishError, match="cannot be trusted: .*self.signed") as caught:
        go(f"oci://localhost:{tokens.server_port}/a")
    assert "REQUESTS_CA_BUNDLE" in caught.value.action


def test_without_oras_it_says_how_to_get_it(release, go, monkeypatch):
    monkeypatch.setitem(sys.modules, "oras.provider", None)
    with pytest.raises(EnvironmentMissing) as caught:
        go("oci://localhost/a")
    assert "'.[publish]'" in caught.value.action


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("", "Where to?"),
        ("here", "is no destination"),
        ("ftp://x/y", "leads nowhere"),
        ("oci://host", "is no repository"),
        ("oci://host/Big", "is no repository"),
        ("oci://host/a:b c", "is no repository"),
        ("oci://user:password@host/a", "is no repository"),
        ("hf://one", "is no model on the hub"),
        ("hf://a/b/c", "is no model on the hub"),
        ("dir://", "names no folder"),
    ],
)
def test_what_is_no_destination_is_refused(release, go, to, says):
    with pytest.raises(TargetError, match=says) as caught:
        go(to)
    assert "://" in caught.value.action or caught.value.action


def test_a_plus_in_a_version_is_no_tag_s(line, repository, output, go):
    make_release("1.0.0+cpu")
    assert f"{repository}:1.0.0_cpu@" in go(f"oci://{line.host}/{repository}")


def test_what_a_receiver_would_refuse_is_not_published(line, repository, release, go):
    (release.folder / WEIGHTS).write_bytes(b"other")
    with pytest.raises(CheckFailed, match="is not what SHA256SUMS says"):
        go(f"oci://{line.host}/{repository}")
    assert not line.passed


@pytest.mark.parametrize("damage", ["lost", "another", "cut", "manifest"])
def test_a_layout_of_another_release_is_not_published(line, repository, release, go, damage):
    layout = oci.read(release.layout, release.folder)
    blob = next(b.file for b in layout.blobs if b.name == WEIGHTS)
    if damage == "lost":
        shutil.rmtree(release.layout)
    elif damage == "another":
        other = make_release("2", weights=b"other")
        shutil.rmtree(release.layout)
        other.layout.rename(release.layout)
    else:
        file = blob if damage == "cut" else release.layout / "blobs" / "sha256" / layout.digest
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="is no OCI image layout of"):
        go(f"oci://{line.host}/{repository}", version=TAG)
    assert not line.passed


def test_a_blob_with_a_flipped_byte_is_not_taken(line, repository, release, go):
    blob = next(b for b in oci.read(release.layout, release.folder).blobs if b.name == WEIGHTS)
    data = bytearray(blob.file.read_bytes())
    data[100] ^= 1
    blob.file.unlink()
    blob.file.write_bytes(data)
    with pytest.raises(PublishError, match=f"refuses to take {WEIGHTS}: 400"):
        go(f"oci://{line.host}/{repository}")
    assert not line.count("PUT", "manifests")


def test_the_newest_is_published_unless_a_version_is_said(output, go, tmp_path):
    with pytest.raises(StoreError, match="There is no release of") as caught:
        go(f"dir://{tmp_path}/to")
    assert caught.value.action == f"doit release:{NAME} version=1.0.0"
    make_release("1.0.0-rc.1")
    make_release("1.0.0")
    make_release("3", name="tiny")  # its folder's name begins as theirs do
    assert [r.version for r in releases()] == ["1.0.0-rc.1", "1.0.0", "3"]
    go(f"dir://{tmp_path}/to")
    go(f"dir://{tmp_path}/to", version="1.0.0-rc.1")
    assert sorted(p.name for p in (tmp_path / "to").glob(f"{NAME}*") if p.suffix != ".oci") == [
        f"{NAME}-1.0.0",
        f"{NAME}-1.0.0-rc.1",
    ]
    with pytest.raises(StoreError, match="no release 1.0.1 of"):
        go(f"dir://{tmp_path}/to", version="1.0.1")


def test_a_folder_gets_all_or_nothing_and_only_once(release, go, tmp_path, monkeypatch):
    to, final = f"dir://{tmp_path}/a/to", tmp_path / "a" / "to" / release.folder.name
    assert "to be sent" in go(to, "no") and not final.parent.exists()
    go(to)
    assert content(final) == content(release.folder) and verified(final, monkeypatch) == 0
    assert content(final.with_name(release.layout.name)) == content(release.layout)
    assert {p.name for p in final.parent.iterdir()} == {final.name, release.layout.name}
    assert "is there already, the same" in go(to) and "Nothing is left to send." in go(to, "no")
    shutil.rmtree(final.with_name(release.layout.name))
    go(to)
    assert content(final.with_name(release.layout.name)) == content(release.layout)
    (final / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(CheckFailed, match="is not what SHA256SUMS says"):
        go(to)
    sums.write(final)
    with pytest.raises(StoreError, match="is there already, and it is another one"):
        go(to)


def test_a_copy_that_is_stopped_leaves_nothing(release, go, tmp_path, monkeypatch):
    from onnxmake.release.destinations import dir as folder

    calls = Counter()

    def stops(path):
        calls["sync"] += 1
        if calls["sync"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(folder, "sync", stops)
    with pytest.raises(KeyboardInterrupt):
        go(f"dir://{tmp_path}/to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(release, go, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Could not publish to .*file"):
        go(f"dir://{tmp_path}/file/to")


def test_what_the_hub_lays_beside_a_signed_release_is_left_alone_and_nothing_else(release, tmp_path):
    private, public = tmp_path / "own.pem", tmp_path / "own.pub"
    named = ["-name", "prime256v1", "-genkey", "-noout", "-out", private]
    subprocess.run(["openssl", "ecparam", *named], check=True)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    signature.sign(release.folder, private)
    for name in (".gitattributes", ".cache/huggingface/download/model.onnx.metadata"):
        (release.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (release.folder / name).write_text("")
    assert received.verify(release.folder, public)[-1] == "model.sig: signed by own.pub"
    for name in (".gitattributes.py", ".cache/other"):
        (release.folder / name).write_text("")
        with pytest.raises(CheckFailed, match=f"{name} is not in SHA256SUMS"):
            received.verify(release.folder)
        (release.folder / name).unlink()


def test_names_of_releases_are_known_beside_those_of_targets(output):
    make_release(name="of-several")
    plan, names = Plan({}, {}), [one.name for one in releases()]
    assert misnamed_by(plan, "publish:of-several", names) is None
    assert "of-several" in str(misnamed_by(plan, "publish:of-severl", names))
    error = misnamed_by(plan, "publish")
    assert isinstance(error, OnnxmakeError) and "is of one target" in error.fact
