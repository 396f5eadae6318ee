"""Files of datasets on the hub, under [check] and as data of passes: fetched with the real client, read with the real reader."""

import dataclasses
import gzip
import json
import re
import shutil
import subprocess

import pytest
from builder import verbs
from hub_server import COMMIT, REPO, serve
from hypothesis import given
from hypothesis import strategies as st
from toy import Toy

from onnxmake.build import dataset, environment, evaluation, fetch, like, paths, quality, recipe, show
from onnxmake.build.gates import Check
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.target import read_target
from onnxmake.errors import OnnxmakeError, Refused, TargetError
from onnxmake.model import hub as client
from onnxmake.model import rows

ROWS = ["One row.", "", "Über three\nlines\u2028\n"]
TEXT = "\n\n".join(ROWS)
WRITE = """
import json, sys, pyarrow, pyarrow.parquet as p
table = pyarrow.table(json.loads(sys.argv[2]))
if "n" in table.column_names:
    table = table.append_column("picture", [[b"\\xff"] * len(table)]).append_column("word", table["text"].dictionary_encode())
p.write_table(table, sys.argv[1])"""


def name(file: str, commit: str = COMMIT) -> str:
    return f"hf://datasets/{REPO}@{commit}/{file}"


def lines(*found: str) -> str:
    return "".join(json.dumps({"text": text, "n": 1}, ensure_ascii=False) + "\n" for text in found)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The dataset's folder."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "a").mkdir()
    files = {
        "a/test.txt": TEXT.encode(),
        "rows.jsonl": lines(*ROWS).encode(),
        "list.json": json.dumps([{"text": row} for row in ROWS]).encode(),
        "lines.json": lines(*ROWS).encode(),
        "packed.json.gz": gzip.compress(lines(*ROWS).encode()),
        "table.csv": ("text,n\n" + "".join(f'"{row}",1\n' for row in ROWS)).encode(),
        "part-1.jsonl": lines(ROWS[0]).encode(),
        "part-2.jsonl": lines(*ROWS[1:]).encode(),
        "numbers.jsonl": b'{"text": 1}\n',
        "list.jsonl": b"[1]\n",
        "latin.txt": "Ü".encode("latin-1"),
        "cut.jsonl.gz": gzip.compress(lines(*ROWS).encode())[:-9],
        "broken.parquet": b"PAR1",
    }
    for file, content in files.items():
        (folder / file).write_bytes(content)
    python = environment.ensure("data")
    for file, columns in (("test.parquet", {"text": ROWS, "n": [1, 2, 3]}), ("other.parquet", {"sentence": ROWS})):
        subprocess.run([python, "-c", WRITE, folder / file, json.dumps(columns)], check=True)
    return folder


@pytest.fixture
def hub(repository, output, tmp_path, monkeypatch):
    (paths.CACHE / "envs").parent.mkdir(parents=True, exist_ok=True)
    (paths.CACHE / "envs").symlink_to(ENVS)
    monkeypatch.setenv("ONNXMAKE_RUNNER", "venv")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with serve(repository) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


ENVS = paths.CACHE / "envs"


def test_files_of_every_form_are_fetched_once_and_give_the_same_texts(hub):
    forms = ("a/test.txt", "rows.jsonl", "list.json", "lines.json", "packed.json.gz", "table.csv", "test.parquet")
    for file in (*forms, "part-*.jsonl"):
        made = fetch.fetch_data(name(file))
        assert rows.BETWEEN.join(rows.texts(made, "")) == TEXT, file
    before = sum(hub.requests.values())
    assert fetch.fetch_data(name("rows.jsonl")).suffix == ".jsonl" and sum(hub.requests.values()) == before > 0
    assert hub.sent["part-1.jsonl"] and not hub.sent["numbers.jsonl"]  # of the repository, what was asked for


def test_what_was_fetched_is_read_again_without_a_network_where_it_changed_or_another_folder_asks(hub, monkeypatch):
    made = fetch.fetch_data(name("rows.jsonl"))
    fetch.fetch_data(name("test.parquet"))  # two of a repository do not forget each other
    content, asked = made.read_bytes(), sum(hub.requests.values())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    made.write_bytes(b'{"text": "planted"}\n')
    assert not dataset.is_here(name("rows.jsonl"))
    assert fetch.fetch_data(name("rows.jsonl")).read_bytes() == content
    shutil.rmtree(paths.BUILD / "data")
    assert fetch.fetch_data(name("rows.jsonl")).read_bytes() == content and sum(hub.requests.values()) == asked
    with pytest.raises(Refused, match="could not be fetched") as caught:
        fetch.fetch_data(name("list.json"))
    assert "save its rows or text as .jsonl or .txt beside the target" in caught.value.action


@pytest.mark.parametrize(
    ("file", "commit", "said", "advice"),
    [
        ("row.jsonl", COMMIT, "has no row.jsonl", "Did you mean 'rows.jsonl'?"),
        ("part-3*.jsonl", COMMIT, "has no part-3*.jsonl", "Did you mean 'part-"),
        ("a/test.txt", "f" * 40, "has no revision f", "history"),
        ("broken.parquet", COMMIT, "broken.parquet holds no rows: ", "save its rows as .jsonl"),
        ("list.jsonl", COMMIT, "list.jsonl, line 1: no JSON object: not an object", "save its rows as .jsonl"),
        ("latin.txt", COMMIT, "latin.txt cannot be read as text: ", "save its rows as .jsonl"),
        ("cut.jsonl.gz", COMMIT, "cut.jsonl.gz cannot be read as text: ", "save its rows as .jsonl"),
    ],
)
def test_what_is_not_there_or_holds_nothing_is_said(hub, file, commit, said, advice):
    with pytest.raises(OnnxmakeError, match=re.escape(said)) as caught:
        fetch.fetch_data(name(file, commit))
    assert type(caught.value) is Refused and advice in caught.value.action
    assert not list((paths.BUILD / "data").iterdir())


@pytest.mark.parametrize(
    ("file", "template", "said", "advice"),
    [
        ("other.parquet", "", "other.parquet, line 1: there is no column 'text'", "Valid: sentence"),
        ("test.parquet", "{n}", "test.parquet, line 1: column 'n' is no string", "another column"),
        ("test.parquet", "{picture}", "column 'picture' is no string", "another column"),
        ("numbers.jsonl", "", "numbers.jsonl, line 1: column 'text' is no string", "another column"),
        ("rows.jsonl", "{tex}", "rows.jsonl, line 1: there is no column 'tex'", "Did you mean 'text'?"),
        ("rows.jsonl", "{text:>9}", "text_template = '{text:>9}' is none", "Write {{"),
        ("a/test.txt", "{text}", "test.txt has no columns", "remove text_template"),
    ],
)
def test_a_template_that_does_not_fit_is_said_before_anything_runs(hub, file, template, said, advice):
    with pytest.raises(TargetError) as caught:
        fetch.fetch_data(name(file), template)
    assert said in caught.value.fact and name(file) in str(caught.value) + name(file) and advice in caught.value.action


def test_a_gated_dataset_says_how_to_be_let_in(hub):
    hub.gated = True
    with pytest.raises(Refused, match=f"{REPO} is gated") as caught:
        fetch.fetch_data(name("rows.jsonl"))
    assert "Accept the terms on the dataset's page and set HF_TOKEN" in caught.value.action


OTHER_FORMS = [
    ("hf://datasets/someone/tiny/test.txt", "it names no commit of 40 hex digits"),
    (f"hf://datasets/someone/tiny@main/{COMMIT}.txt", "it names no commit of 40 hex digits"),
    (f"hf://datasets/someone/tiny@{COMMIT[:12]}/a.txt", "the dataset's page shows the commit under Files and versions"),
    (f"hf://someone/tiny@{COMMIT}/test.txt", ""),
    (name("test.zip"), "FILE is .parquet, or .jsonl"),
    ("https://example.org/test.txt", ""),
]


@pytest.mark.parametrize(("given_", "why"), OTHER_FORMS)
@pytest.mark.parametrize("option", ["text", "calibration", "data"])
def test_another_form_is_refused_when_the_target_is_read(tmp_path, option, given_, why):
    file = tmp_path / "one.toml"
    last = {"text": "[check]", "calibration": '[[pass]]\nuse = "quantize_gptq"', "data": '[[pass]]\nuse = "finetune"'}
    file.write_text(
        f'device = "cpu"\n[source]\npath = "x"\n[[pass]]\nuse = "export"\n{last[option]}\n{option} = "{given_}"\n'
    )
    with pytest.raises(TargetError, match="is not of the form hf://datasets/OWNER/NAME@COMMIT/FILE") as caught:
        read_target(file)
    assert why in caught.value.fact and f"{option} = '{given_}'" in caught.value.fact


WORD = st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True)


@given(
    WORD,
    WORD,
    st.from_regex(r"[0-9a-f]{40}", fullmatch=True),
    st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), min_size=1),
    st.sampled_from(["txt", "md.gz", "json", "csv", "jsonl.gz", "parquet"]),
)
def test_every_file_of_a_commit_has_a_name_and_a_place_of_its_own(owner, repo, commit, stem, suffix):
    named = f"hf://datasets/{owner}/{repo}@{commit}/{stem}.{suffix}"
    assert dataset.misnamed(named) == "" != dataset.misnamed(named.replace(f"@{commit}/", "@main/", 1))
    found = dataset.HUB.fullmatch(named).groupdict()
    assert f"hf://datasets/{found['repo']}@{found['revision']}/{found['file']}" == named
    assert (dataset.place(named).suffix == ".txt") == suffix.startswith(("txt", "md"))
    assert dataset.place(named) != dataset.place(f"{named}.csv")


@given(st.lists(st.text(st.characters(exclude_characters="*"), min_size=1), min_size=1), st.data())
def test_a_pattern_takes_what_it_matches_and_a_name_itself_alone(names, data):
    one = data.draw(st.sampled_from(names))
    assert {*client.chosen(names, [one], "dataset")} == {one}
    cut = data.draw(st.integers(0, len(one)))
    begun = {name for name in names if name.startswith(one[:cut]) and "/" not in name[cut:]}
    assert {*client.chosen(names, [f"{one[:cut]}*"], "dataset")} == begun


@given(st.dictionaries(st.text(st.characters(exclude_characters="{}[]:!"), min_size=1), st.text()), st.data())
def test_a_template_is_filled_with_columns_of_any_name(row, data):
    columns = data.draw(st.lists(st.sampled_from([*row]))) if row else []
    template = "{{" + "".join(f"{{{column}}}}}}}" for column in columns)
    assert rows.filled(rows.parts(template), row, "here") == "{" + "".join(row[column] + "}" for column in columns)


def test_of_rows_no_more_are_read_than_the_tokens_that_are_wanted_need(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines(*("x" * rows.LONGEST,) * 9) + "what is behind is not read")
    assert rows.joined(file, "", 2) == rows.BETWEEN.join(["x" * rows.LONGEST] * 3)
    with pytest.raises(TargetError, match="line 10: no JSON object"):
        rows.joined(file, "", 9)


def test_one_that_is_taken_over_from_another_folder_s_target_stays_as_it_is(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "one.toml").write_text(f'[check]\ntext = "{name("test.txt")}"\n')
    (tmp_path / "b" / "two.toml").write_text('like = "one"\n')
    files = {n: tmp_path / f / f"{n}.toml" for n, f in (("one", "a"), ("two", "b"))}
    assert like.load(files["two"], files)[1]["check"] == {"text": name("test.txt")}


def test_a_target_shows_the_name_and_a_recipe_holds_it_before_anything_is_fetched(tmp_path, output):
    file = tmp_path / "one.toml"
    text = 'device = "cpu"\n[source]\npath = "x"\n[[pass]]\nuse = "finetune"\ndata = "{}"\n[[pass]]\nuse = "export"\n'
    text += '[[pass]]\nuse = "package_genai"\n'
    file.write_text(text.format(name("rows.jsonl")))
    target = read_target(file)
    assert f'data = "{name("rows.jsonl")}"' in show.toml(target)
    (use, *_) = target.passes
    assert use.options.data == "data.jsonl" and use.hub == {"data.jsonl": name("rows.jsonl")}
    document = {"code": {}, "inputs": {"data.jsonl": "0", "model.onnx": "1"}}
    assert recipe.of_step(document, use)["datasets"] == use.hub and recipe.of_step(document, use)["inputs"] == {}
    one, two = (steps_of(target, checkpoint_of(target))[0] for _ in "ab")
    file.write_text(text.format(name("rows.jsonl", "f" * 40)))
    other = read_target(file)
    assert one.id == two.id != steps_of(other, checkpoint_of(other))[0].id


READ = '''"""Texts of data."""

from dataclasses import dataclass

from onnxmake.model.rows import texts

ENVIRONMENT = "cpu"
READS = ("model.json",)


@dataclass(frozen=True)
class Options:
    data: str
    text_template: str = ""


def run(src, out, o):
    (out / "model.json").write_text("|".join(texts(src / o.data, o.text_template)))
'''


def test_a_pass_reads_a_dataset_whose_content_is_in_its_key(repository, tmp_path):
    toy = Toy(tmp_path)
    shutil.copytree(paths.CONTAINERS / "data", toy.root / "containers" / "data")
    (toy.root / "passes" / "read.py").write_text(READ)
    toy.settings |= {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    other = name("test.parquet", "f" * 40)
    chain = [("begin", {}), ("read", {"data": name("test.parquet"), "text_template": "<{text}>"}), ("finish", {})]
    build = toy.target("x", chain)
    failed = toy.fail(build)
    assert "could not be fetched" in failed and verbs(failed) == {}  # before anything runs
    with serve(repository) as hub:
        toy.settings["HF_ENDPOINT"] = hub.url
        assert verbs(toy.run(build)) == {"begin": "ran", "read": "ran", "finish": "ran"}
    assert (toy.dist("x") / "model.json").read_text() == "|".join(f"<{row}>" for row in ROWS)
    toy.settings["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert toy.run(build).strip().endswith("build:x: up to date")
    (record,) = (toy.output / "build" / "data").glob("*.record")
    record.unlink()
    assert "test.parquet: not fetched here yet, or changed" in toy.run("why", build)
    assert verbs(toy.run(build)) == {}  # read again from the hub's cache, and the same
    toy.target("x", [chain[0], ("read", {"data": name("rows.jsonl")}), chain[2]])
    assert "could not be fetched" in toy.fail(build)
    toy.target("x", [chain[0], ("read", {"data": other}), chain[2]])
    assert "could not be fetched" in toy.fail(build)


def test_a_model_is_evaluated_on_it_and_the_name_is_what_the_figures_depend_on(
    delivered, repository, tmp_path, monkeypatch
):
    text = (paths.TARGETS / "tiny" / "heldout.txt").read_text()[:20000]
    (repository / "python.jsonl").write_text(json.dumps({"a": text[:5000], "b": text[5000:]}) + "\n")
    target = read_target(paths.TARGETS / "tiny-int4-cpu.toml")
    check = Check(text=name("python.jsonl"), text_template="{a}{b}", window=128, max_tokens=512)
    target = dataclasses.replace(target, check=check)
    steps = steps_of(target, checkpoint_of(target))
    for key, value in {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1", "ONNXMAKE_RUNNER": "venv"}.items():
        monkeypatch.setenv(key, value)
    assert quality.text_key(target) == quality.text_name(target) == name("python.jsonl")  # without a hub
    assert target.check.settings["text_template"] == "{a}{b}" and "text_template" not in Check().settings
    with serve(repository) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = evaluation.evaluate(target, steps)
    assert found["of"] == "tokens" and found["counted"] == 4 * 127
    assert 0 < found["metrics"]["kl"] < 0.1 and found["metrics"]["perplexity"] < 40
