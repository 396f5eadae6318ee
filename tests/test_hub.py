"""Fetching a checkpoint with the real hub client, from a hub on loopback that fails on demand."""

import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import COMMIT, REPO, serve

from onnxmake.build.source import FILES
from onnxmake.model.progress import PREFIX

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 10 << 20  # the client keeps whole chunks of this size when it is cut off
NEEDED = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 4,
    "tokenizer.json": b"{}",
    "merges.txt": b"a b\n",
}
OTHERS = {
    "README.md": b"# Tiny",
    "pytorch_model.bin": b"\x80\x02",
    "onnx/model.safetensors": b"another",
    "original/config.json": b"{}",
}


@dataclass
class Outcome:
    """What a fetch said: its exit code, and its messages on standard output."""

    code: int
    messages: list[dict]
    output: str

    @property
    def folder(self) -> Path:
        assert self.code == 0, self.output
        return Path(self.messages[-1]["result"])

    @property
    def error(self) -> str:
        assert self.code == 1 and "error" in self.messages[-1], self.output
        return " ".join(self.messages[-1]["error"].values())


def fetch(
    home: Path,
    url: str,
    repo: str = REPO,
    revision: str = COMMIT,
    patterns: tuple[str, ...] = FILES,
    **environment: str,
) -> Outcome:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    own = {
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(home),
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxmake.model.hub"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=inherited | own | environment,
        cwd=home.parent,
        text=True,
    )
    process.stdin.write(json.dumps({"repo": repo, "revision": revision, "patterns": list(patterns)}) + "\n")
    process.stdin.flush()  # and left open: a process whose build is gone ends
    printed = process.stdout.read()
    process.wait()
    process.stdin.close()
    messages = [json.loads(line.removeprefix(PREFIX)) for line in printed.splitlines() if line.startswith(PREFIX)]
    return Outcome(process.returncode, messages, printed)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model", NEEDED | OTHERS)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def test_only_the_needed_files_are_fetched_at_the_pinned_commit(model, home):
    with serve(model) as hub:
        folder = fetch(home, hub.url).folder
    assert contents(folder) == NEEDED
    assert folder.name == COMMIT
    assert set(hub.sent) == {"", *NEEDED}
    assert all(COMMIT in path for path in hub.requests)


def test_progress_ends_at_the_size_of_the_needed_files(model, home):
    with serve(model) as hub:
        *progress, _ = fetch(home, hub.url).messages
    size = sum(map(len, NEEDED.values()))
    assert progress[-1] == {"done": size, "total": size}
    assert [m["done"] for m in progress] == sorted(m["done"] for m in progress)


def test_a_cut_connection_is_resumed_where_it_was_cut(model, home):
    weights = random.Random(0).randbytes(CHUNK + 5000)
    write(model, {"model.safetensors": weights})
    with serve(model, cut={"model.safetensors": CHUNK + 1000}) as hub:
        folder = fetch(home, hub.url).folder
    assert (folder / "model.safetensors").read_bytes() == weights
    start, resumed = hub.starts["model.safetensors"]
    assert start == 0 < resumed
    assert hub.sent["model.safetensors"] == CHUNK + 1000 + len(weights) - resumed


@pytest.mark.parametrize("after", [0, 500])
def test_a_reset_connection_is_tried_again(model, home, after):
    with serve(model, cut={"model.safetensors": after}, reset=True) as hub:
        folder = fetch(home, hub.url).folder
    assert contents(folder) == NEEDED
    assert len(hub.starts["model.safetensors"]) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_corrupt_file_is_fetched_again(model, home, name):
    with serve(model, corrupt={name: 2}) as hub:
        folder = fetch(home, hub.url).folder
    assert contents(folder) == NEEDED
    assert {file: len(starts) for file, starts in hub.starts.items()} == {
        file: 3 if file == name else 1 for file in NEEDED
    }


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_always_corrupt_is_named_and_not_kept(model, home, name):
    with serve(model, corrupt={name: 1000}) as hub:
        error = fetch(home, hub.url).error
    assert f"{name} of {REPO}" in error and "digest" in error
    assert not [p for p in home.rglob("*") if p.name == name]


def test_a_file_damaged_in_the_cache_is_fetched_again(model, home):
    with serve(model) as hub:
        config = fetch(home, hub.url, patterns=("config.json",)).folder / "config.json"
        config.resolve().write_bytes(b"{}")
        folder = fetch(home, hub.url).folder
    assert contents(folder) == NEEDED


def test_an_unknown_repository_is_named(model, home):
    with serve(model) as hub:
        error = fetch(home, hub.url, repo="someone/other").error
    assert "no model someone/other" in error and "source.repo" in error


def test_a_malformed_repository_name_is_refused(model, home):
    with serve(model) as hub:
        error = fetch(home, hub.url, repo="some one/a/b").error
    assert "some one/a/b is no name" in error and "owner/name" in error
    assert not hub.requests


def test_an_unknown_commit_is_named(model, home):
    with serve(model) as hub:
        error = fetch(home, hub.url, revision="f" * 40).error
    assert REPO in error and f"no revision {'f' * 40}" in error


def test_a_repository_without_needed_files_is_refused(tmp_path, home):
    with serve(write(tmp_path / "empty", OTHERS)) as hub:
        error = fetch(home, hub.url).error
    assert REPO in error and "none of the files" in error


def test_the_token_is_sent(model, home):
    with serve(model, token="hf_right") as hub:
        folder = fetch(home, hub.url, HF_TOKEN="hf_right").folder
    assert contents(folder) == NEEDED


def test_without_a_token_a_private_model_is_hidden(model, home):
    with serve(model, token="hf_right") as hub:
        error = fetch(home, hub.url).error
    assert f"no model {REPO}, or hides it" in error and "HF_TOKEN" in error


def test_a_wrong_token_is_blamed(model, home):
    with serve(model, token="hf_right") as hub:
        error = fetch(home, hub.url, HF_TOKEN="hf_wrong").error
    assert f"refuses to serve {REPO}" in error and "token is wrong" in error


def test_a_gated_model_asks_to_accept_its_terms(model, home):
    with serve(model, gated=True) as hub:
        error = fetch(home, hub.url).error
    assert f"{REPO} is gated" in error and "Accept the terms" in error


def test_a_second_fetch_makes_no_request(model, home):
    with serve(model) as hub:
        first = fetch(home, hub.url).folder
        before = hub.requests.copy()
        assert fetch(home, hub.url).folder == first
        assert hub.requests == before


def test_more_patterns_fetch_only_what_is_new(model, home):
    with serve(model) as hub:
        fetch(home, hub.url, patterns=("config.json",))
        folder = fetch(home, hub.url).folder
    assert contents(folder) == NEEDED
    assert hub.starts == {name: [0] for name in NEEDED}


def test_a_file_lost_from_the_cache_is_fetched_again(model, home):
    with serve(model) as hub:
        (fetch(home, hub.url).folder / "merges.txt").resolve().unlink()
        folder = fetch(home, hub.url).folder
    assert contents(folder) == NEEDED
    assert hub.starts == {name: [0, 0] if name == "merges.txt" else [0] for name in NEEDED}


def test_a_damaged_record_of_the_fetch_is_made_anew(model, home):
    with serve(model) as hub:
        fetch(home, hub.url)
        record = next(home.rglob(".onnxmake-*.json"))
        whole = record.read_text()
        record.write_text(whole[:20])
        assert contents(fetch(home, hub.url).folder) == NEEDED
    assert record.read_text() == whole


def test_offline_after_a_fetch_gives_what_is_there(model, home):
    with serve(model) as hub:
        online = fetch(home, hub.url).folder
    offline = fetch(home, hub.url, HF_HUB_OFFLINE="1").folder
    assert offline == online and contents(offline) == NEEDED


def test_offline_before_a_fetch_is_an_error(model, home):
    with serve(model) as hub:
        error = fetch(home, hub.url, HF_HUB_OFFLINE="1").error
    assert REPO in error and "offline" in error and "source=FOLDER" in error
    assert not hub.requests


def test_no_answer_is_an_error(home):
    error = fetch(home, f"http://127.0.0.1:{closed_port()}").error
    assert (
        f"{REPO} at {COMMIT[:12]} could not be fetched" in error
        and "hub does not answer" in error
        and "source=FOLDER" in error
    )


def test_a_cache_that_cannot_be_written_is_named(model, home):
    home.write_text("a file where a folder should be")
    with serve(model) as hub:
        error = fetch(home, hub.url).error
    assert str(home) in error and "Not a directory" in error and "network" not in error


def test_a_large_file_tells_how_far_it_is(tmp_path):
    (tmp_path / "repo").mkdir()
    size = 2 * CHUNK + 5000
    (tmp_path / "repo" / "model.safetensors").write_bytes(bytes(size))
    with serve(tmp_path / "repo") as hub:
        told = [m["done"] for m in fetch(tmp_path / "home", hub.url).messages if "total" in m]
    assert told == sorted(told) and told[-1] == size
    assert any(0 < done < size for done in told)
