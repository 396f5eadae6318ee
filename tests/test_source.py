"""What a build knows of its checkpoint: what export reads of it, and when it counts as changed."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from onnxmake.build import digest, source
from onnxmake.build.files import digest_text, read_record
from onnxmake.build.source import DERIVED, Checkpoint, describe, is_current, save_manifest
from onnxmake.build.target import Source
from onnxmake.errors import CheckpointError, SourceError, StoreError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
}
SHAPELESS = {
    "_name_or_path": "/home/x",
    "transformers_version": "5.0",
    "torch_dtype": "float32",
    "dtype": "float32",
    "use_cache": True,
    "initializer_range": 0.02,
    "quantization_config": {"quant_method": "fp8"},
}
TENSORS = {"embed": np.arange(12, dtype=np.float32).reshape(4, 3), "norm": np.ones(3, np.float16)}

pytestmark = pytest.mark.usefixtures("output")


def write_config(folder: Path, settings: dict) -> None:
    (folder / "config.json").write_text(json.dumps(settings))


def save_shards(folder: Path) -> None:
    for name, array in TENSORS.items():
        save_file({name: array}, folder / f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: f"{name}.safetensors" for name in TENSORS}})
    )


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write_config(folder, CONFIG | SHAPELESS)
    (folder / "tokenizer.json").write_text("{}")
    save_file(TENSORS, folder / "model.safetensors")
    return folder


@pytest.fixture
def checkpoint(folder):
    """The folder as a checkpoint whose manifest is saved."""
    checkpoint = Checkpoint(Source(path="model"), folder)
    save_manifest(checkpoint, folder)
    return checkpoint


def derived(folder: Path, name: str) -> str:
    return describe(folder)[1][name]


def rewrite(path: Path, content: bytes) -> None:
    """Other content of the same size with the old modification time, once the clock of the file system has ticked."""
    before = path.stat()
    assert len(content) == before.st_size and content != path.read_bytes()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_the_architecture_is_the_config_without_shapeless_keys(folder):
    assert json.loads(derived(folder, "architecture.json")) == CONFIG


@pytest.mark.parametrize("key", CONFIG)
def test_the_architecture_depends_on_every_other_key(folder, key):
    before = derived(folder, "architecture.json")
    write_config(folder, {k: v for k, v in CONFIG.items() if k != key})
    assert derived(folder, "architecture.json") != before


def test_the_architecture_does_not_depend_on_key_order(folder):
    before = derived(folder, "architecture.json")
    write_config(
        folder, {k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in reversed(CONFIG.items())}
    )
    assert derived(folder, "architecture.json") == before


def test_the_tensors_are_names_and_shapes(folder):
    assert json.loads(derived(folder, "tensors.json")) == {"embed": [4, 3], "norm": [3]}


def test_the_tensors_do_not_depend_on_sharding_nor_on_values(folder):
    before = derived(folder, "tensors.json")
    (folder / "model.safetensors").unlink()
    save_shards(folder)
    assert derived(folder, "tensors.json") == before
    save_file({"embed": TENSORS["embed"] + 1}, folder / "embed.safetensors")
    assert derived(folder, "tensors.json") == before


def test_files_are_those_a_build_uses_with_their_digests(folder):
    (folder / "README.md").write_text("# Tiny")
    save_file(TENSORS, folder / "adapter_model.safetensors")
    files = describe(folder)[0]["files"]
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", *DERIVED}
    assert files["tokenizer.json"] == digest_text("{}")


def test_shards_are_listed_with_their_index(folder):
    (folder / "model.safetensors").unlink()
    save_shards(folder)
    assert set(describe(folder)[0]["files"]) - set(DERIVED) == {
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "embed.safetensors",
        "norm.safetensors",
    }


@pytest.mark.parametrize("content", ["<html>Not found</html>", "", "[]", "3", '{"model_type": ', "\N{BOM}{}"])
def test_a_config_that_is_no_json_object_is_refused(folder, content):
    (folder / "config.json").write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json is not a JSON object"):
        describe(folder)


def test_a_config_that_is_no_text_is_refused(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"config\.json is not a JSON object"):
        describe(folder)


def test_a_missing_config_names_the_folder(folder):
    (folder / "config.json").unlink()
    with pytest.raises(SourceError, match=r"model holds no config\.json"):
        describe(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SourceError, match="elsewhere does not exist"):
        describe(tmp_path / "elsewhere")


def test_damaged_weights_are_not_described(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        describe(folder)


def test_the_manifest_says_what_was_described(folder, checkpoint):
    manifest, texts = describe(folder)
    originals = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert manifest == {
        "folder": str(folder),
        "saved_by": "5.0",
        "files": originals | {name: digest_text(text) for name, text in texts.items()},
    }
    assert checkpoint.record == read_record(checkpoint.manifest) == manifest
    assert set(texts) == set(DERIVED)
    assert {name: (checkpoint.manifest.parent / name).read_text() for name in texts} == texts


@pytest.mark.parametrize("name", DERIVED)
def test_a_lost_derived_file_is_noticed_and_written_again(folder, checkpoint, name):
    lost = checkpoint.manifest.parent / name
    text = lost.read_text()
    lost.unlink()
    assert not is_current(checkpoint)
    save_manifest(checkpoint, folder)
    assert is_current(checkpoint) and lost.read_text() == text


@pytest.mark.parametrize("name", DERIVED)
def test_a_damaged_derived_file_is_noticed_and_written_again(folder, checkpoint, monkeypatch, name):
    monkeypatch.setattr(digest, "SETTLED", -1)
    assert is_current(checkpoint)
    hurt = checkpoint.manifest.parent / name
    whole = hurt.read_bytes()
    rewrite(hurt, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not is_current(checkpoint)
    save_manifest(checkpoint, folder)
    assert is_current(checkpoint) and hurt.read_bytes() == whole


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut off", "empty"])
def test_a_lost_or_damaged_manifest_is_noticed_and_written_again(folder, checkpoint, damage):
    whole = checkpoint.manifest.read_bytes()
    if damage == "missing":
        checkpoint.manifest.unlink()
    elif damage == "flipped":
        rewrite(checkpoint.manifest, whole.replace(b"config.json", b"donfig.json"))
    else:
        checkpoint.manifest.write_bytes(whole[: len(whole) // 2 if damage == "cut off" else 0])
    assert not is_current(checkpoint)
    with pytest.raises(StoreError, match=r"manifest\.json is missing or damaged"):
        checkpoint.record  # noqa: B018
    save_manifest(checkpoint, folder)
    assert is_current(checkpoint) and checkpoint.manifest.read_bytes() == whole


def test_an_interrupted_description_leaves_no_manifest(folder, monkeypatch):
    def stop(path, text):
        raise KeyboardInterrupt

    checkpoint = Checkpoint(Source(path="model"), folder)
    monkeypatch.setattr(source, "write_atomically", stop)
    with pytest.raises(KeyboardInterrupt):
        save_manifest(checkpoint, folder)
    assert not checkpoint.manifest.exists() and not is_current(checkpoint)


def test_a_checkpoint_is_current_once_its_manifest_is_saved(folder):
    checkpoint = Checkpoint(Source(path="model"), folder)
    assert not is_current(checkpoint)
    save_manifest(checkpoint, folder)
    assert is_current(checkpoint)


def test_a_hub_checkpoint_is_current_where_it_was_fetched_to(folder):
    checkpoint = Checkpoint(Source(repo="someone/tiny", revision="0" * 40), None)
    save_manifest(checkpoint, folder)
    assert is_current(checkpoint)
    (folder / "tokenizer.json").unlink()
    assert not is_current(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_other_content_of_the_same_size_and_time_is_noticed(folder, checkpoint, monkeypatch, name):
    monkeypatch.setattr(digest, "SETTLED", -1)
    assert is_current(checkpoint)
    old = (folder / name).read_bytes()
    rewrite(folder / name, old[:-1] + bytes([old[-1] ^ 1]))
    assert not is_current(checkpoint)


def test_a_touched_file_with_its_old_content_stays_current(folder, checkpoint):
    for path in folder.iterdir():
        os.utime(path, ns=(0, 10**18))
    assert is_current(checkpoint)


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "generation_config.json", "chat_template.jinja", "model.safetensors.index.json"]
)
def test_a_new_file_that_a_build_uses_is_noticed(folder, checkpoint, name):
    (folder / name).write_text("{}")
    assert not is_current(checkpoint)


def test_a_new_file_that_no_build_uses_is_ignored(folder, checkpoint):
    (folder / "README.md").write_text("# Tiny")
    save_file(TENSORS, folder / "adapter_model.safetensors")
    assert is_current(checkpoint)


def test_a_single_file_put_beside_shards_is_noticed(folder, checkpoint):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    save_shards(folder)
    save_manifest(checkpoint, folder)
    assert is_current(checkpoint)
    (folder / "model.safetensors").write_bytes(whole)
    assert not is_current(checkpoint)


def test_a_removed_file_is_noticed(folder, checkpoint):
    (folder / "tokenizer.json").unlink()
    assert not is_current(checkpoint)


def test_a_link_whose_file_is_gone_is_noticed(folder, tmp_path, checkpoint):
    blob = tmp_path / "blob"
    (folder / "tokenizer.json").rename(blob)
    (folder / "tokenizer.json").symlink_to(blob)
    assert is_current(checkpoint)
    blob.unlink()
    assert not is_current(checkpoint)


def test_a_removed_folder_is_noticed(folder, checkpoint):
    folder.rename(folder.with_name("moved"))
    assert not is_current(checkpoint)


def test_another_folder_has_another_manifest(tmp_path, checkpoint):
    other = Checkpoint(Source(path="model"), tmp_path / "other" / "model")
    assert other.manifest != checkpoint.manifest
    assert not is_current(other)
