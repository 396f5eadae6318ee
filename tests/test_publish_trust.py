"""Publishing: who is told a password, who is trusted, and what is not sent because its receiver would refuse it."""

import base64
import json
import shutil
import ssl
import subprocess

import loopback
import pytest
from publishing import TAG, logged_in
from registry_server import PASSWORD, USER, proxied
from releasing import WEIGHTS, make_release

from onnxmake.errors import CheckFailed, PublishError, StoreError
from onnxmake.release import oci, received, signature
from onnxmake.release import registry as transport

pytestmark = pytest.mark.usefixtures("alone")


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


class Tokens(loopback.Handler):
    """A registry that hands out a token for a name and a password, and is empty."""

    realm = ""

    def do_GET(self):
        given = self.headers.get("Authorization", "")
        if self.path.startswith("/token"):
            known = given == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            return self.answer(200 if known else 401, json.dumps({"token": "of-today"}).encode())
        if given != "Bearer of-today":
            challenge = f'Bearer realm="{self.realm}",service="here",scope="repository:a:pull"'
            return self.answer(401, b"{}", [("Www-Authenticate", challenge)])
        return self.answer(404, b"{}")


@pytest.fixture
def tokens():
    with loopback.serving(Tokens, None) as server:
        yield server


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
