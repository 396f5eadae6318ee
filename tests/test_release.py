"""Releases: their papers, who is refused one, and what their receiver finds."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from released import checked_as_if
from releasing import content
from test_regressions import RESULT

from onnxmake.__main__ import main
from onnxmake.build import due, paths, results
from onnxmake.build.gates import Check
from onnxmake.build.plan import Plan
from onnxmake.build.releases import Keys, ReleaseFile
from onnxmake.build.target import Release, read_target
from onnxmake.errors import CheckFailed, SourceError, StoreError, TargetError
from onnxmake.release import facts, front, oci, part, received, release, sums
from onnxmake.release.licence import licence_of, stated

NAME = "tiny-int4-cpu"
FILES = ["genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"]
PAPERS = ["README.md", "bom.cdx.json", "provenance.intoto.json"]


@pytest.fixture
def target():
    return read_target(paths.TARGETS / f"{NAME}.toml")


@pytest.fixture
def checked(delivered, target):
    """It, with its steps."""
    return [checked_as_if(target)]


@pytest.fixture
def released(checked, target, monkeypatch) -> Path:
    monkeypatch.setenv("ONNXMAKE_VERSION", "1.0.0")
    release.release(checked)
    return paths.DIST / "releases" / f"{NAME}-1.0.0"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private and public, twice."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private]
        subprocess.run(make, check=True)
        subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return folder


def off(folder: Path, *arguments: str, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxmake", "verify", str(folder), *arguments])
    return main()


def test_it_holds_the_model_and_its_papers_and_coreutils_agree(released, target):
    assert sorted(content(released)) == sorted([*FILES, *PAPERS, "SHA256SUMS"])
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    subprocess.run(check, cwd=released, check=True)
    assert [line.split(":")[0] for line in received.verify(released)] == [
        "SHA256SUMS",
        "provenance.intoto.json, bom.cdx.json",
        "not signed",
    ]


def test_the_bill_of_materials_is_valid_and_names_checkpoint_licence_and_packages(released):
    text = (released / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    (origin,) = (c for c in bom["components"] if c["type"] == "machine-learning-model")
    assert origin["name"] == "tiny" and origin["licenses"] == [{"license": {"id": "PSF-2.0"}}]
    assert "model.safetensors" in {c["name"] for c in origin["components"]}
    assert any(c.get("purl", "").startswith("pkg:pypi/onnxruntime@") for c in bom["components"])
    metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "KL divergence, mean nats", "value": "0.0190"} in metrics


def test_the_provenance_names_all_that_went_in(released, target):
    told = json.loads((released / "provenance.intoto.json").read_text())
    assert [s["name"] for s in told["subject"]] == FILES
    built = told["predicate"]["buildDefinition"]
    names = {d["name"] for d in built["resolvedDependencies"]}
    assert {
        "checkpoint/model.safetensors",
        "containers/torch/requirements.lock",
        "containers/cpu/requirements.lock",
    } <= names
    assert [s["pass"] for s in built["internalParameters"]["steps"][NAME]] == [
        u.declaration.name for u in target.passes
    ]
    assert 'lm_head = "int8"' in built["externalParameters"]["targets"][NAME]
    assert all(len(d["digest"]["sha256"]) == 64 for d in built["resolvedDependencies"])


def test_the_provenance_tells_the_recipe_so_that_the_target_is_not_due(released, checked):
    ((target, steps),) = checked
    plan = Plan({NAME: (target, [*steps])}, {})
    assert due.due(plan, [NAME], released.parent) == {}
    plan.targets[NAME][1][0] = replace(
        steps[0], use=replace(steps[0].use, options=replace(steps[0].use.options, part="text"))
    )
    assert due.due(plan, [NAME], released.parent) == {NAME: ["since 1.0.0: export: options.part: model -> text"]}
    several = ReleaseFile("tiny", paths.TARGETS / "tiny.release.toml", "", Keys((NAME,)))
    assert due.due(replace(plan, releases={"tiny": several}), ["tiny"], released.parent) == {
        "tiny": ["not released yet"]
    }


def test_no_paper_says_where_or_when_it_was_made(released):
    for name in PAPERS:
        text = (released / name).read_text()
        assert str(paths.ROOT) not in text and str(paths.DIST) not in text


def test_the_card_says_licence_quality_and_passes(released):
    text = (released / "README.md").read_text()
    assert text.startswith('---\nlicense: "psf-2.0"\n') and "pipeline_tag: text-generation" in text
    assert "| KL divergence, mean nats       | 0.0190  | max_kl = 0.025 " in text and "| quantize_rtn " in text


def test_the_front_matter_is_what_the_hub_reads(released):
    front = yaml.safe_load((released / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "psf-2.0" and front["library_name"] == "onnx" and "cpu" in front["tags"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert model["name"] == NAME and result["task"]["type"] == front["pipeline_tag"] == "text-generation"
    assert {"type": "kl", "name": "KL divergence, mean nats", "value": 0.019} in result["metrics"]
    assert sums.digest(paths.TARGETS / "tiny" / "heldout.txt") in result["dataset"]["name"]


def test_speeds_are_in_the_card_where_they_are_asked_for(released, checked, target, monkeypatch):
    assert "Speed" not in (released / "README.md").read_text()
    monkeypatch.setenv("ONNXMAKE_BENCH", "yes")
    monkeypatch.setenv("ONNXMAKE_VERSION", "2.0.0")
    with pytest.raises(CheckFailed, match="Nothing was measured of tiny-int4-cpu as built"):
        release.release(checked)
    results.save(RESULT | {"target": NAME, "files": results.delivered(target)["files"]})
    release.release(checked)
    text = (paths.DIST / "releases" / f"{NAME}-2.0.0" / "README.md").read_text()
    assert "## Speed" in text and "| decode tok/s" in text and RESULT["machine"]["cpu"] in text
    monkeypatch.setenv("ONNXMAKE_BENCH", "perhaps")
    with pytest.raises(TargetError, match="bench=perhaps"):
        release.release(checked)


def test_the_layout_holds_every_file_as_a_layer(released):
    layout = released.with_name(f"{released.name}.oci")

    def blob(descriptor):
        kind, digest = descriptor["digest"].split(":")
        file = layout / "blobs" / kind / digest
        assert sums.digest(file) == digest and file.stat().st_size == descriptor["size"]
        return file

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]).read_text())
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    layers = {layer["annotations"][oci.PATH]: blob(layer).read_bytes() for layer in manifest["layers"]}
    assert layers == content(released)
    kinds = {layer["annotations"][oci.PATH]: layer["mediaType"].split(".")[-3] for layer in manifest["layers"]}
    assert kinds["model.onnx"] == kinds["model.onnx.data"] == "weight" and kinds["README.md"] == "doc"
    config = json.loads(blob(manifest["config"]).read_text())
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    assert len(list((layout / "blobs" / "sha256").iterdir())) == len(layers) + 2


def test_the_same_again_is_no_other_and_another_is_refused(released, checked, target, capsys):
    before = content(paths.DIST / "releases")
    release.release(checked)
    assert "is there already, the same" in capsys.readouterr().out
    (released / "SHA256SUMS").write_text("")
    with pytest.raises(StoreError, match="is there already, and it is another one"):
        release.release(checked)
    assert set(content(paths.DIST / "releases")) == set(before)


def test_one_file_beside_it_is_asked_for(released, checked, monkeypatch, capsys):
    file = released.with_name(f"{released.name}.tar.zst")
    assert not file.exists()
    monkeypatch.setenv("ONNXMAKE_ARCHIVE", "yes")
    release.release(checked)
    assert "is there already, the same" in capsys.readouterr().out and file.exists()
    monkeypatch.setenv("ONNXMAKE_ARCHIVE", "ja")
    with pytest.raises(TargetError, match="archive=ja is none that there is"):
        release.release(checked)


def test_without_a_version_it_is_the_content_s(checked, target, monkeypatch):
    monkeypatch.delenv("ONNXMAKE_VERSION", raising=False)
    release.release(checked)
    (folder,) = (p for p in (paths.DIST / "releases").iterdir() if p.suffix != ".oci")
    assert folder.name.startswith(f"{NAME}-") and len(folder.name) == len(NAME) + 13


@pytest.mark.parametrize(
    ("passes", "relation"),
    [
        ({"export", "package_genai"}, ""),
        ({"export", "quantize_rtn"}, "quantized"),
        ({"export", "repack"}, "quantized"),
        ({"finetune", "export", "quantize_rtn"}, "finetune"),
        ({"import_adapter", "export"}, "finetune"),
        ({"run_script", "export", "quantize_gptq"}, "quantized"),  # data of a script's tune no weights
        ({"run_script", "export"}, ""),
    ],
)
def test_the_card_says_what_the_model_is_to_its_checkpoint(passes, relation):
    assert front._relation(passes) == relation


@pytest.mark.parametrize("version", ["../1", "1/2", " ", "a b", "1.0.0.oci", "1.0.0.tar.zst"])
def test_a_version_is_part_of_a_name(checked, target, version):
    with pytest.raises(TargetError, match="is none"):
        release.release([(replace(target, release=Release(version=version)), checked[0][1])])


def test_what_was_not_checked_or_misses_a_gate_is_refused(delivered, target, checked):
    strict = replace(target, check=Check(max_kl=0.001))
    with pytest.raises(CheckFailed, match="does not keep max_kl"):
        release.release([(strict, checked[0][1])])
    shutil.rmtree(paths.BUILD / "quality")
    with pytest.raises(CheckFailed, match="is not released: no twin of tiny-int4-cpu was compared"):
        release.release(checked)
    (paths.DIST / NAME / "model.onnx").write_bytes(b"other")
    with pytest.raises(CheckFailed, match="dist holds other files"):
        release.release(checked)
    assert not (paths.DIST / "releases").exists()


def test_one_flipped_byte_anywhere_is_found(released, monkeypatch, capsys):
    for name, data in content(released).items():
        for place in {0, len(data) // 2, len(data) - 1}:
            (released / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert off(released, monkeypatch=monkeypatch) == 1, (name, place)
            assert "Likely cause" in capsys.readouterr().err
        (released / name).write_bytes(data)
    assert off(released, monkeypatch=monkeypatch) == 0


@pytest.mark.parametrize("name", [*FILES, *PAPERS, "SHA256SUMS"])
def test_a_lost_file_is_found(released, name):
    (released / name).unlink()
    with pytest.raises(CheckFailed, match=f"{name} is missing|holds no {name}"):
        received.verify(released)


def test_more_files_links_and_ways_out_are_found(released, tmp_path):
    (released / "more").mkdir()
    (released / "more" / "evil.py").write_text("")
    with pytest.raises(CheckFailed, match="more/evil.py is not in SHA256SUMS"):
        received.verify(released)
    shutil.rmtree(released / "more")
    same = tmp_path / "model.onnx"
    (released / "model.onnx").rename(same)
    (released / "model.onnx").symlink_to(same)
    with pytest.raises(CheckFailed, match="model.onnx is a link"):
        received.verify(released)
    (released / "model.onnx").unlink()
    same.rename(released / "model.onnx")
    (released / "more").symlink_to(tmp_path)
    with pytest.raises(CheckFailed, match="more is a link"):
        received.verify(released)
    (released / "more").unlink()
    lines = (released / "SHA256SUMS").read_text()
    for name in ("../out", "/etc/passwd", "a/../../b"):
        (released / "SHA256SUMS").write_text(f"{lines}{'0' * 64}  {name}\n")
        with pytest.raises(CheckFailed, match="has a line that is none"):
            received.verify(released)


def test_papers_of_another_release_are_found_though_the_sums_are_right(released):
    for name in ("bom.cdx.json", "provenance.intoto.json"):
        text = (released / name).read_text()
        (released / name).write_text(text.replace(sums.digest(released / "model.onnx"), "0" * 64))
        sums.write(released)
        with pytest.raises(CheckFailed, match=f"{name} says another thing of model.onnx"):
            received.verify(released)
        (released / name).write_text("{}")
        sums.write(released)
        with pytest.raises(CheckFailed, match="lacks"):
            received.verify(released)
        (released / name).write_text(text)


def test_a_signature_is_of_the_key_and_of_every_file(checked, target, keys, monkeypatch, capsys):
    monkeypatch.setenv("ONNXMAKE_KEY", str(keys / "own.pem"))
    monkeypatch.setenv("ONNXMAKE_VERSION", "2")
    release.release(checked)
    folder = paths.DIST / "releases" / f"{NAME}-2"
    assert received.verify(folder, keys / "own.pub")[-1] == "model.sig: signed by own.pub"
    assert "NOT verified" in received.verify(folder)[-1]
    assert off(folder, "--key", str(keys / "other.pub"), monkeypatch=monkeypatch) == 1
    assert "is not this folder's signature by other.pub" in capsys.readouterr().err
    (folder / "tokenizer_config.json").write_text("{}")
    for paper in ("bom.cdx.json", "provenance.intoto.json"):  # one who can write all of it
        old = results.delivered(target)["files"]["tokenizer_config.json"][0]
        text = (folder / paper).read_text().replace(old, sums.digest(folder / "tokenizer_config.json"))
        (folder / paper).write_text(text)
    sums.write(folder)
    received.verify(folder)
    with pytest.raises(CheckFailed, match="is not this folder's signature by own.pub"):
        received.verify(folder, keys / "own.pub")
    (folder / "model.sig").unlink()
    with pytest.raises(CheckFailed, match="There is no model.sig"):
        received.verify(folder, keys / "own.pub")


def test_what_is_no_key_releases_nothing(checked, target, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("none")
    monkeypatch.setenv("ONNXMAKE_KEY", str(tmp_path / "key"))
    with pytest.raises(CheckFailed, match="could not be signed"):
        release.release(checked)
    assert not (paths.DIST / "releases").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", {"license": "apache-2.0"}),
        ('---\ntags: [a]\nlicense: "MIT"  # as they say\n---\n', {"license": "MIT"}),
        (
            "---\r\nlicense: other\r\nlicense_name: qwen\r\nlicense_link: https://x/y\r\n---\r\n",
            {"license": "other", "license_name": "qwen", "license_link": "https://x/y"},
        ),
        ("# none\nlicense: mit\n", {}),
        ("---\ntags: []\n---\nlicense: mit\n---\n", {}),
    ],
)
def test_a_checkpoint_s_licence_is_read_from_its_card(tmp_path, text, found):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert stated(tmp_path) == found


def test_an_unknown_licence_is_refused_unless_the_target_states_one(tmp_path):
    for text in (None, "---\nlicense: unknown\n---\n"):
        if text:
            (tmp_path / "README.md").write_text(text)
        with pytest.raises(SourceError, match="Nothing says under which licence a/b is") as caught:
            licence_of(tmp_path, None, "a/b")
        assert "[release]" in caught.value.action
    assert licence_of(tmp_path, "Apache-2.0", "a/b") == {"license": "apache-2.0"}


@pytest.mark.parametrize(
    ("files", "architecture", "task"),
    [
        (["genai_config.json"], "Qwen2ForCausalLM", "text-generation"),
        (["model.onnx"], "BertForSequenceClassification", "text-classification"),
        (["model.onnx"], "ViTForImageClassification", "image-classification"),
        (["model.onnx"], "BertModel", "feature-extraction"),
        (["model.onnx"], None, "feature-extraction"),
    ],
)
def test_what_a_model_is_for_is_said_as_the_hub_says_it(files, architecture, task):
    made = part.Part(*[None] * 3, dict.fromkeys(files), *[None] * 5)
    told = facts.Facts(*[None] * 8, {"architectures": architecture and [architecture]}, {}, [made], {})
    assert told.task == task


def test_two_releases_of_one_build_are_the_same(released, checked, target, tmp_path, monkeypatch):
    first = content(released.parent)
    monkeypatch.setattr(paths, "DIST", tmp_path / "elsewhere")
    shutil.copytree(released.parent.parent / NAME, paths.DIST / NAME)
    os.umask(os.umask(0o077))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    release.release(checked)
    assert content(paths.DIST / "releases") == first


def test_a_receiver_needs_neither_tasks_nor_environments():
    program = "import sys, onnxmake.__main__; print([n for n in sys.modules if n.startswith('onnxmake.build') or n in ('doit', 'docker')])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
