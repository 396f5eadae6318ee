"""A text of a dataset on the hub under [check], fetched with the real client, read with the real reader."""

import dataclasses
import json
import subprocess

import pytest
from hub_server import COMMIT, REPO, serve

from onnxmake.build import environment, evaluation, fetch, like, paths, quality
from onnxmake.build.gates import Check
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.target import read_target
from onnxmake.errors import OnnxmakeError, Refused, TargetError

ROWS = ["One row.", "", "Über three\nlines\n"]
TEXT = "\n\n".join(ROWS)
WRITE = "import json, sys, pyarrow, pyarrow.parquet as p; p.write_table(pyarrow.table(json.loads(sys.argv[2])), sys.argv[1])"


def name(file: str, commit: str = COMMIT) -> str:
    return f"hf://datasets/{REPO}@{commit}/{file}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The repository's folder."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "a").mkdir()
    (folder / "a" / "test.txt").write_text(TEXT)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": row, "n": 1}) + "\n" for row in ROWS))
    (folder / "numbers.jsonl").write_text('{"text": 1}\n')
    (folder / "broken.parquet").write_bytes(b"PAR1")
    for file, column in (("test.parquet", "text"), ("other.parquet", "sentence")):
        command = [environment.ensure("data"), "-c", WRITE, folder / file, json.dumps({column: ROWS})]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture
def hub(dataset, output, tmp_path, monkeypatch):
    (paths.CACHE / "envs").parent.mkdir(parents=True, exist_ok=True)
    (paths.CACHE / "envs").symlink_to(ENVS)
    monkeypatch.setenv("ONNXMAKE_RUNNER", "venv")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with serve(dataset) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


ENVS = paths.CACHE / "envs"


@pytest.mark.parametrize("file", ["a/test.txt", "rows.jsonl", "test.parquet"])
def test_a_file_is_fetched_once_and_its_rows_are_one_text(hub, file):
    text = fetch.fetch_text(name(file))
    assert text.read_text("utf-8") == TEXT
    before = sum(hub.requests.values())
    assert fetch.fetch_text(name(file)) == text and sum(hub.requests.values()) == before > 0


@pytest.mark.parametrize(
    ("file", "commit", "said"),
    [
        ("no.txt", COMMIT, "has no no.txt"),
        ("a/test.txt", "f" * 40, "has no revision f"),
        ("other.parquet", COMMIT, "other.parquet holds no column text"),
        ("numbers.jsonl", COMMIT, "numbers.jsonl holds no column text"),
        ("broken.parquet", COMMIT, "broken.parquet holds no column text"),
    ],
)
def test_what_is_not_there_or_no_text_is_said(hub, file, commit, said):
    with pytest.raises(OnnxmakeError, match=said) as caught:
        fetch.fetch_text(name(file, commit))
    assert type(caught.value) is Refused and caught.value.action
    assert not list((paths.BUILD / "texts").iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/someone/tiny/test.txt",
        f"hf://datasets/someone/tiny@main/{COMMIT}.txt",
        f"hf://someone/tiny@{COMMIT}/test.txt",
        name("test.csv"),
        "https://example.org/test.txt",
    ],
)
def test_another_form_is_refused_when_the_target_is_read(tmp_path, text):
    file = tmp_path / "one.toml"
    file.write_text(f'device = "cpu"\n[source]\npath = "x"\n[[pass]]\nuse = "export"\n[check]\ntext = "{text}"\n')
    with pytest.raises(TargetError, match="is not of the form hf://datasets/OWNER/NAME@COMMIT/FILE"):
        read_target(file)


def test_one_that_is_taken_over_from_another_folder_s_target_stays_as_it_is(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "one.toml").write_text(f'[check]\ntext = "{name("test.txt")}"\n')
    (tmp_path / "b" / "two.toml").write_text('like = "one"\n')
    files = {n: tmp_path / f / f"{n}.toml" for n, f in (("one", "a"), ("two", "b"))}
    assert like.load(files["two"], files)[1]["check"] == {"text": name("test.txt")}


def test_a_model_is_evaluated_on_it_and_the_name_is_what_the_figures_depend_on(
    delivered, dataset, tmp_path, monkeypatch
):
    (dataset / "python.txt").write_text((paths.TARGETS / "tiny" / "heldout.txt").read_text()[:20000])
    target = read_target(paths.TARGETS / "tiny-int4-cpu.toml")
    target = dataclasses.replace(target, check=Check(text=name("python.txt"), window=128, max_tokens=512))
    steps = steps_of(target, checkpoint_of(target))
    for key, value in {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1", "ONNXMAKE_RUNNER": "venv"}.items():
        monkeypatch.setenv(key, value)
    assert quality.text_key(target) == quality.text_name(target) == name("python.txt")  # without a hub
    with serve(dataset) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = evaluation.evaluate(target, steps)
    assert found["of"] == "tokens" and found["counted"] == 4 * 127
    assert 0 < found["metrics"]["kl"] < 0.1 and found["metrics"]["perplexity"] < 40
