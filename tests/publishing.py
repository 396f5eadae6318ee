"""What tests of publishing share, as a plugin of pytest: a release, a registry with a failing line before it, and the command."""

import base64
import hashlib
import json
import sys
from pathlib import Path

import pytest
from registry_server import PASSWORD, USER, proxied, registry
from releasing import NAME, make_release

from onnxmake.__main__ import main
from onnxmake.release import blobs, publish
from onnxmake.release import registry as transport

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


@pytest.fixture
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
    import oras.provider

    oras.provider.Registry(host, insecure=True).pull(f"{host}/{repository}:{tag}", outdir=str(out))
    return out


def verified(folder: Path, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxmake", "verify", str(folder)])
    return main()
