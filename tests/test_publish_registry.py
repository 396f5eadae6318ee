"""Publishing a release to a real registry that is behind a failing line."""

import shutil
from collections import Counter

import oras.provider
import pytest
from publishing import TAG, pulled, verified
from registry_server import free_port
from releasing import MODEL, NAME, content, make_release

from onnxmake.build import paths
from onnxmake.errors import PublishError, StoreError
from onnxmake.release import blobs, oci

pytestmark = pytest.mark.usefixtures("alone")


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


def test_a_plus_in_a_version_is_no_tag_s(line, repository, output, go):
    make_release("1.0.0+cpu")
    assert f"{repository}:1.0.0_cpu@" in go(f"oci://{line.host}/{repository}")
