"""Data sets of the hub in Olive workflows: which files hold a split, and what `doit import` makes of a name, with the real client."""

import json

import pytest
from hub_server import COMMIT, REPO, serve
from hypothesis import given
from hypothesis import strategies as st

from onnxmake.build import execute, fetch, paths
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.target import read_target
from onnxmake.errors import OnnxmakeError, Refused, SourceError, TargetError
from onnxmake.model import listing, splits
from onnxmake.model.hub import chosen
from onnxmake.olive import coverage, importing

WIKI = [f"wikitext-2-raw-v1/{name}-00000-of-00001.parquet" for name in ("test", "train", "validation")]
OTHER = ["wikitext-103/train-00000-of-00002.parquet", "wikitext-103/train-00001-of-00002.parquet"]
CONFIGS = [
    {
        "config_name": "wikitext-2-raw-v1",
        "data_files": [
            {"split": "train", "path": "wikitext-2-raw-v1/train-*"},
            {"split": "test", "path": ["wikitext-2-raw-v1/te*"]},
        ],
    },
    {"config_name": "wikitext-103", "data_dir": "wikitext-103"},
]
ONE = [{"config_name": "default", "data_files": "all/**.jsonl"}]


def asked(split="train", subset="", files=(), folder=""):
    return {"repo": "some/one", "split": split, "subset": subset, "files": [*files], "folder": folder}


@pytest.mark.parametrize(
    ("names", "configs", "question", "found"),
    [
        ([*WIKI, *OTHER], CONFIGS, asked(subset="wikitext-2-raw-v1"), WIKI[1:2]),
        ([*WIKI, *OTHER], CONFIGS, asked("test", "wikitext-2-raw-v1"), WIKI[:1]),
        ([*WIKI, *OTHER], CONFIGS, asked(subset="wikitext-103"), OTHER),
        ([*WIKI, *OTHER], None, asked("validation", "wikitext-2-raw-v1"), WIKI[2:]),
        ([*WIKI, *OTHER], None, asked(folder="wikitext-103"), OTHER),
        (["all/a.jsonl", "all/b/c.jsonl", "d.jsonl"], ONE, asked(), ["all/a.jsonl", "all/b/c.jsonl"]),
        (["data/odd-00000-of-00001.parquet", "train.csv"], None, asked("odd"), ["data/odd-00000-of-00001.parquet"]),
        (["train/a.txt", "dev/test.txt"], None, asked("validation"), ["dev/test.txt"]),
        (["my_train_file.csv", "testfile.csv", "eval.csv"], None, asked("test"), ["eval.csv"]),
        (["README.md", "LICENSE.txt", ".hidden/a.json", "a.json", "b.json", "c.txt"], None, asked(), ["a.json", "b.json"]),
        (["en/c4-train.0.json.gz", "en/c4-train.1.json.gz"], CONFIGS, asked(files=["en/c4-train.1.*"]), ["en/c4-train.1.json.gz"]),
        (["a.jsonl", "b.jsonl"], None, asked(subset="default"), ["a.jsonl", "b.jsonl"]),
    ],
)  # fmt: skip
def test_a_split_s_files_are_found_as_the_hub_finds_them(names, configs, question, found):
    assert listing.files_of(dict.fromkeys(names, 1), configs, question) == found


@pytest.mark.parametrize(
    ("names", "configs", "question", "said", "advice"),
    [
        (WIKI, CONFIGS, asked(subset="wikitext-2-raw"), "has no subset 'wikitext-2-raw'", "'wikitext-2-raw-v1'?"),
        (WIKI, CONFIGS, asked(), "has several subsets, and none is named", "wikitext-103, wikitext-2-raw-v1"),
        (WIKI, CONFIGS, asked("trian", "wikitext-2-raw-v1"), "has no split 'trian'", "'train'?"),
        (WIKI, None, asked(subset="wikitext-3"), "has no subset 'wikitext-3'", "'wikitext-2-raw-v1'?"),
        (["glue.py"], None, asked(), "has no split 'train'", "Valid: none"),
        (["a.jsonl"], None, asked(files=["b.jsonl"]), "has no file 'b.jsonl'", "'a.jsonl'?"),
        (["train.zip"], [{"data_files": "*.zip"}], asked(), "train.zip of some/one is none of the forms", "as .jsonl"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(names, configs, question, said, advice):
    with pytest.raises(SourceError) as caught:
        listing.files_of(dict.fromkeys(names, 1), configs, question)
    assert said in caught.value.fact and advice in caught.value.action


NAMES = st.lists(st.from_regex(r"(a|train|dev)(/(b|test-))?[-_0-9a]{0,3}\.(jsonl|csv)", fullmatch=True), min_size=1, unique=True)  # fmt: skip


@given(NAMES, st.data(), st.sampled_from([1, 10**9]))
def test_one_name_stands_for_files_of_a_split_or_for_the_first(names, data, size):
    files = sorted({*data.draw(st.lists(st.sampled_from(names), min_size=1))})
    name = listing.together(files, dict.fromkeys(names, size))
    found = chosen(names, [name], "dataset")
    assert sorted(found) in (files, files[:1]) and (size == 1 or len(found) == 1)


@given(NAMES)
def test_each_file_is_of_one_split_at_most_by_folders_and_of_train_where_no_name_says_any(names):
    found = splits.by_name(splits.readable(names))
    assert {name for files in found.values() for name in files} <= {*names} and found
    assert found.keys() <= {*splits.WORDS}
    if not any(word in name for name in names for word in ("train", "dev", "test")):
        assert found == {"train": splits.readable(names)}


@given(st.text(st.sampled_from("ab/*?.["), min_size=1), st.text(st.sampled_from("ab/.["), min_size=1))
def test_a_pattern_without_stars_names_itself(pattern, name):
    plain = pattern.replace("*", "a").replace("?", "b")
    assert splits.glob(plain).fullmatch(plain) and splits.glob(pattern).fullmatch(plain)
    assert (splits.glob("**").fullmatch(name) is not None) and ("/" in name) != bool(splits.glob("*").fullmatch(name))


ENVS = paths.CACHE / "envs"
README = """---
configs:
- config_name: raw
  data_files:
  - split: train
    path: raw/train-*
---
A dataset.
"""


@pytest.fixture
def hub(output, tmp_path, monkeypatch):
    """A dataset whose README has configs, beside a folder for workflows with the embedded model."""
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    (paths.CACHE / "envs").symlink_to(ENVS)
    (tmp_path / "model").symlink_to(paths.TARGETS / "tiny")
    repository = tmp_path / "dataset"
    (repository / "raw").mkdir(parents=True)
    (repository / "README.md").write_text(README)
    for number in (1, 2):
        rows = [{"q": f"def f{n}(x):", "a": f"    return x + {n} * {number}\n" * 9} for n in range(9)]
        (repository / "raw" / f"train-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for key, value in {"HF_HOME": tmp_path / "hub", "HF_HUB_DISABLE_XET": "1", "ONNXMAKE_RUNNER": "venv"}.items():
        monkeypatch.setenv(key, str(value))
    with serve(repository) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def workflow(folder, load, process=None, passes=None, **more):
    """A file in the folder."""
    data = {"name": "d", "type": "HuggingfaceContainer", "load_dataset_config": load}
    given_ = {
        "input_model": {"type": "HfModel", "model_path": "model"},
        "data_configs": [data | {"pre_process_data_config": process or {}}],
        "passes": passes or {"g": {"type": "Gptq", "group_size": 32, "data_config": "d"}},
    }
    (folder / "flow.json").write_text(json.dumps(given_ | more))
    return folder / "flow.json"


OLDER_NAME = REPO.split("/")[1]  # which the hub still knows
LOAD = {"data_name": OLDER_NAME, "subset": "raw", "split": "train[:10%]"}
BOTH = f"hf://datasets/{REPO}@{COMMIT}/raw/train-*.jsonl"


def test_import_pins_a_data_set_to_files_of_a_commit(hub, tmp_path):
    metric = {"name": "a", "type": "accuracy", "sub_type": "accuracy_score", "data_config": "d"}
    process = {"text_cols": ["q", "a"], "max_seq_len": 128, "max_samples": 16, "strategy": "line-by-line"}
    file = workflow(tmp_path, LOAD, process, evaluator={"metrics": [metric]})
    text = importing.imported(file, tmp_path / "flow.toml")
    assert f'calibration = "{BOTH}"' in text and f'\ntext = "{BOTH}"' in text
    assert "all of split train is read" in text and "texts are read one after the other" in text
    assert hub.requests[f"/api/datasets/{REPO}/revision/main"] == 1  # for both
    target = read_target(tmp_path / "flow.toml")
    (use,) = (use for use in target.passes if use.declaration.name == "quantize_gptq")
    assert use.hub == {"calibration.jsonl": BOTH} and target.check.text == BOTH
    assert (use.options.samples, use.options.tokens) == (16, 128)
    assert use.options.text_template == target.check.text_template == "{q} {a}"
    with pytest.raises(TargetError, match="data_configs.d names no commit of tiny") as caught:
        read_target(file)
    assert "doit import -c" in caught.value.action and "save the texts as .jsonl" in caught.value.action
    assert coverage.look(file, "flow.json").reasons == ()
    file = workflow(tmp_path, LOAD | {"revision": COMMIT})
    with pytest.raises(TargetError, match="data_configs.d names no file of tiny"):
        read_target(file)


def test_an_imported_training_is_run_on_rows_of_the_hub(hub, tmp_path):
    arguments = {"max_steps": 1, "per_device_train_batch_size": 1, "warmup_steps": 0}
    lora = {"type": "LoRA", "r": 2, "train_data_config": "d", "training_args": arguments, "torch_dtype": "float32"}
    passes = {"l": lora, "m": {"type": "ModelBuilder", "precision": "int4"}}
    process = {"text_template": "{q}\n{a}", "max_seq_len": 32, "max_samples": 5}
    text = importing.imported(workflow(tmp_path, LOAD, process, passes), tmp_path / "tuned.toml")
    assert "max_samples is not heeded" in text
    target = read_target(tmp_path / "tuned.toml")
    options = target.passes[0].options
    assert (options.data, options.text_template, options.tokens) == ("data.jsonl", "{q}\n{a}", 32)
    first = steps_of(target, checkpoint_of(target))[0]
    execute.make_source(first.checkpoint)
    execute.make_step(first, [target.name])
    assert [*first.record["files"]] == ["tuned.safetensors"]
    assert fetch.fetch_data(BOTH, options.text_template).read_text().count("\n") == 18


@pytest.mark.parametrize(
    ("load", "said", "advice"),
    [
        (LOAD | {"subset": "rwa"}, f"{OLDER_NAME} has no subset 'rwa'", "Did you mean 'raw'?"),
        ({"data_name": OLDER_NAME, "subset": "raw"}, "has no split 'validation'", "Valid: train"),
        ({"data_name": "owner/none"}, "The hub has no dataset owner/none, or hides it", "Correct it"),
        (LOAD | {"revision": "v1"}, "has no revision v1", "Copy the commit"),
    ],
)
def test_what_the_hub_has_not_is_said_and_nothing_is_written(hub, tmp_path, load, said, advice):
    with pytest.raises(OnnxmakeError) as caught:
        importing.imported(workflow(tmp_path, load), tmp_path / "flow.toml")
    assert said in caught.value.fact and advice in caught.value.action and not (tmp_path / "flow.toml").exists()


def test_without_a_network_import_says_what_to_do(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Refused, match="could not be fetched") as caught:
        importing.imported(workflow(tmp_path, LOAD), tmp_path / "flow.toml")
    assert "save its rows or text as .jsonl or .txt" in caught.value.action
    pinned = {"data_name": REPO, "revision": COMMIT, "data_files": {"train": "raw/train-1.jsonl"}, "split": "train"}
    text = importing.imported(workflow(tmp_path, pinned), tmp_path / "flow.toml")  # says all by itself
    assert f'calibration = "{BOTH.replace("*", "1")}"' in text
    assert read_target(tmp_path / "flow.json").passes == read_target(tmp_path / "flow.toml").passes


def test_of_a_large_split_the_first_file_is_taken_and_the_others_are_told_of(hub, tmp_path, monkeypatch):
    assert listing.together(["a-1.json", "a-2.json"], {"a-1.json": 6e8, "a-2.json": 6e8}) == "a-1.json"
    (hub.folder / "raw" / "train-3-other.json").write_text("[]")
    text = importing.imported(workflow(tmp_path, LOAD), tmp_path / "flow.toml")
    assert f'calibration = "{BOTH.replace("*", "1")}"' in text
    assert 'data_configs.d: raw/train-1.jsonl is the first of 3 files; another can be named, or several by "*"' in text


@pytest.mark.parametrize(
    ("load", "process", "said"),
    [
        (LOAD | {"split": "train+test"}, {}, "split 'train+test' is of several"),
        (LOAD, {"chat_template": True}, "chat_template formats messages"),
        ({"data_name": "tiny"}, {}, "tiny is a folder"),
        ({"data_name": 1}, {}, "data_configs.d.data_name = 1 is not a string"),
        (LOAD | {"data_files": [1]}, {}, "is not names of files"),
        (LOAD, {"text_template": 1}, "is not a string with columns in braces"),
        (LOAD, {"text_cols": [1]}, "is not names of columns"),
    ],
)
def test_what_says_no_one_split_or_text_is_refused(tmp_path, load, process, said):
    if said == "tiny is a folder":
        (tmp_path / "tiny").mkdir()
    with pytest.raises(TargetError) as caught:
        read_target(workflow(tmp_path, load, process))
    assert said in str(caught.value)


def test_training_names_its_data(tmp_path):
    passes = {"l": {"type": "LoRA", "train_data_config": "d"}, "m": {"type": "ModelBuilder", "precision": "int4"}}
    with pytest.raises(TargetError, match="it names nothing to be trained on"):
        read_target(workflow(tmp_path, {}, {}, passes))
