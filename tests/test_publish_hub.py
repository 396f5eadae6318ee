"""Publishing a release to a hub on loopback, by the hub's real client in its environment."""

from collections import Counter

import pytest
from hub_upload import TOKEN, taking
from huggingface_hub import hf_hub_download
from releasing import MODEL, NAME, WEIGHTS, content, make_release

from onnxmake.build import paths
from onnxmake.errors import Refused
from onnxmake.release import publish, received

TO, REPO = "hf://someone/tiny", "someone/tiny"
ENVIRONMENTS = paths.CACHE / "envs"
GIT = {".gitattributes": b"*.onnx filter=lfs\n"}  # what the hub begins a repository with


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with taking() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
        for name, value in (own | {"ONNXMAKE_RUNNER": "venv", "NO_PROXY": "127.0.0.1"}).items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture
def release(output):
    paths.CACHE.mkdir(parents=True)
    ENVIRONMENTS.mkdir(exist_ok=True)
    (paths.CACHE / "envs").symlink_to(ENVIRONMENTS)
    return make_release()


@pytest.fixture
def go(monkeypatch, capfd):
    """Publish; gives what was printed."""

    def publishes(to: str = TO, go: str = "yes", version: str = "") -> str:
        for key, value in {"TO": to, "GO": go, "VERSION": version}.items():
            monkeypatch.setenv(f"ONNXMAKE_{key}", value)
        publish.publish(NAME)
        return capfd.readouterr().out

    return publishes


def test_the_hub_gives_back_what_was_released_by_its_version(hub, release, go, tmp_path, monkeypatch):
    assert "to be sent" not in (look := go(go="no")) and "What is there is not known" in look
    assert hub.tokens == {None} and not hub.refs
    out = go()
    commit = hub.refs[REPO]["1.0.0"]
    assert f"{REPO} 1.0.0 is commit {commit[:12]}" in out and hub.refs[REPO]["main"] == commit
    assert hub.commits[commit] == content(release.folder) | GIT
    for name in hub.commits[commit]:
        hf_hub_download(REPO, name, revision="1.0.0", local_dir=tmp_path / "got", endpoint=hub.url, token=TOKEN)
    assert (tmp_path / "got" / ".cache" / "huggingface").is_dir()
    assert received.verify(tmp_path / "got")[-1] == "not signed"
    logs = "".join(p.read_text() for p in (paths.BUILD / "logs").rglob("*.log"))
    assert TOKEN not in out + logs
    hub.asked.clear()
    assert "is there already, the same" in go() and set(hub.asked) == {"info"}
    assert go(go="no").count("there already") == len(content(release.folder)) + 1


def test_a_version_is_of_one_content(hub, release, go):
    other = hub.write(REPO, "1.0.0", content(release.folder) | {WEIGHTS: b"other"})
    hub.refs[REPO]["main"] = other
    for sends in ("no", "yes"):
        with pytest.raises(Refused, match="has 1.0.0 already, and it is another one"):
            go(go=sends)
    hub.write(REPO, "1.0.0", content(release.folder) | {"more.py": b""})
    with pytest.raises(Refused, match="another one"):
        go()
    assert set(hub.asked) == {"info"}


def test_the_next_version_replaces_files_and_sends_only_what_is_new(hub, release, go):
    first = hub.write(REPO, "main", content(release.folder) | GIT | {"old.onnx": b"old", "sub/old.json": b"{}"})
    hub.objects = {}
    second = make_release("1.0.1", weights=b"new")
    look = go(go="no")
    assert "Of the branch, these files go: old.onnx, sub/old.json." in look
    assert look.count("there already") == len(content(second.folder)) - 4  # weights, two papers, sums
    go()
    assert hub.received == 3 and hub.refs[REPO]["1.0.1"] != first
    assert hub.commits[hub.refs[REPO]["1.0.1"]] == content(second.folder) | GIT


def test_a_branch_of_its_own(hub, release, go):
    before = hub.write(REPO, "main", {"config.json": b"{}"})
    go(f"{TO}@onnx/int4")
    assert hub.refs[REPO]["main"] == before
    assert hub.commits[hub.refs[REPO]["onnx/int4"]] == content(release.folder)


def test_an_upload_that_broke_goes_on_with_what_the_hub_has(hub, release, go):
    hub.fault = lambda what: 403 if what == "commit" else None
    with pytest.raises(Refused, match="refuses to take someone/tiny: 403"):
        go()
    large = sum(len(MODEL[name]) for name in ("model.onnx", WEIGHTS))
    assert hub.received == large
    hub.fault = lambda what: None
    go()
    assert hub.received == large and hub.commits[hub.refs[REPO]["1.0.0"]] == content(release.folder) | GIT


def test_a_run_that_ended_before_the_tag_only_tags(hub, release, go):
    commit = hub.write(REPO, "main", content(release.folder))
    assert "go=yes" in go(go="no")
    go()
    assert hub.refs[REPO]["1.0.0"] == commit and not hub.asked["commit"] and not hub.received


def test_a_failure_of_a_part_is_tried_again(hub, release, go):
    seen = Counter()

    def fails(what):
        seen[what] += 1
        return 503 if what == "part" and seen[what] == 2 else None

    hub.fault = fails
    go()
    assert hub.commits[hub.refs[REPO]["1.0.0"]] == content(release.folder) | GIT


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (("create", 403), ["refuses to take someone/tiny: 403", "Set HF_TOKEN"]),
        (("commit", 412), ["changed while it was published", "Publish again"]),
        (("part", 400), ["could not be published", "what has arrived is kept"]),
    ],
)
def test_what_the_hub_refuses_is_said_and_not_tagged(hub, release, go, fault, says):
    hub.fault = lambda what: fault[1] if what == fault[0] else None
    with pytest.raises(Refused) as caught:
        go()
    assert all(text in str(caught.value) for text in says)
    assert "1.0.0" not in hub.refs.get(REPO, {})


def test_no_token_and_a_wrong_one(hub, release, go, monkeypatch):
    for token in ("hf_wrong", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(Refused, match="refuses to take someone/tiny: 401"):
            go()
    assert not hub.refs


def test_what_arrives_changed_is_not_tagged(hub, release, go, monkeypatch):
    write = hub.write

    def spoils(repo, branch, files):
        return write(repo, branch, {n: data + b" " if n == "README.md" else data for n, data in files.items()})

    monkeypatch.setattr(hub, "write", spoils)
    with pytest.raises(Refused, match="has other files at .* than were sent, README.md for one"):
        go()
    assert "1.0.0" not in hub.refs[REPO]


def test_no_answer_is_said(release, go, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Refused, match="could not be published: ConnectError"):
        go()
