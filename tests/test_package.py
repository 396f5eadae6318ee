"""Releases of several targets: a model package that ONNX Runtime opens, papers over all variants, and release files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builder import Builder
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from model_package import ModelPackage
from released import checked_as_if
from releasing import content

from onnxmake.build import paths, quality, tasks
from onnxmake.build.device import device
from onnxmake.build.files import write_record
from onnxmake.build.misnamed import misnamed_by
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.releases import read_release, read_releases
from onnxmake.build.target import read_target, read_targets
from onnxmake.errors import CheckFailed, TargetError
from onnxmake.release import oci, package, received, release, sums

DEVICES = ("cpu", "cuda", "directml")
NAMES = [f"tiny-int4-{name}" for name in DEVICES]


def planned(*folders):
    found = read_targets([paths.TARGETS, *folders])
    return {n: (t, steps_of(t, checkpoint_of(t))) for n, t in found.items() if not isinstance(t, TargetError)}


@pytest.fixture
def file():
    return read_release(paths.TARGETS / "tiny-int4.release.toml", planned(), {})


@pytest.fixture
def checked(delivered):
    return [checked_as_if(read_target(paths.TARGETS / f"{name}.toml")) for name in NAMES]


@pytest.fixture
def released(checked, file, monkeypatch) -> Path:
    monkeypatch.setenv("ONNXMAKE_VERSION", "1.0.0")
    release.release(checked, file)
    return paths.DIST / "releases" / "tiny-int4-1.0.0"


def test_onnx_runtime_opens_the_package_and_takes_the_variant_of_this_machine(released):
    opened = ModelPackage(released)
    assert opened.variants("model") == list(DEVICES)
    name, inputs = opened.selected("model")
    assert name == "cpu" and inputs == 14  # tokens, mask, and keys and values of six layers
    (shared,) = (released / "shared_assets").iterdir()
    assert opened.resolved(shared.name.replace("-", ":")).samefile(shared)
    manifest = json.loads((released / "manifest.json").read_text())
    variants = manifest["components"]["model"]["variants"]
    assert [variants[name]["ep"] for name in DEVICES] == [device(name).ep for name in DEVICES]


def test_the_tokenizer_is_there_once_under_the_digest_of_its_listing(released):
    (shared,) = (released / "shared_assets").iterdir()
    assert {p.name for p in shared.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    listing = subprocess.run("sha256sum * | sha256sum", shell=True, cwd=shared, capture_output=True, text=True)
    assert shared.name == f"sha256-{listing.stdout[:64]}"
    for name in DEVICES:
        own, built = released / name, paths.DIST / f"tiny-int4-{name}"
        assert {p.name for p in own.iterdir()} == {"genai_config.json", "model.onnx", "model.onnx.data"}
        config, tested = (json.loads((at / "genai_config.json").read_text()) for at in (own, built))
        assert config["model"].pop("tokenizer_dir") == shared.name.replace("-", ":") and config == tested
        assert sums.digest(own / "model.onnx.data") == sums.digest(built / "model.onnx.data")


def test_what_the_card_says_to_run_runs(released):
    text = (released / "README.md").read_text()
    program = re.search(r'^python -c "\n(.*?)"\n```', text, re.DOTALL | re.MULTILINE)[1].replace('\\"', '"')
    done = subprocess.run([sys.executable, "-c", program], cwd=released, capture_output=True, text=True)
    assert done.stdout.startswith("Once upon a time") and len(done.stdout) > 60, done.stderr
    for name in NAMES:
        assert f"\n## {name}\n" in text and f"| {name} " in text
    assert "tags: " in text and all(f'"{name}"' in text for name in DEVICES)


def test_the_papers_are_over_all_variants(released):
    text = (released / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    whole = json.loads(text)["metadata"]["component"]
    assert whole["name"] == "tiny-int4" and [c["name"] for c in whole["components"]] == NAMES
    assert all(c["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] for c in whole["components"])
    told = json.loads((released / "provenance.intoto.json").read_text())
    models = {
        n
        for n in content(released)
        if n not in ("README.md", "SHA256SUMS") and not n.endswith((".cdx.json", ".intoto.json"))
    }
    assert {s["name"] for s in told["subject"]} == models
    built = told["predicate"]["buildDefinition"]
    assert {name: [s["pass"] for s in steps] for name, steps in built["internalParameters"]["steps"].items()} == {
        name: [u.declaration.name for u in read_target(paths.TARGETS / f"{name}.toml").passes] for name in NAMES
    }
    assert set(built["externalParameters"]["targets"]) == set(NAMES)
    assert not [n for n, data in content(released).items() if str(paths.DIST).encode() in data]


def test_the_layout_holds_every_file_by_its_path(released):
    layout = released.with_name(f"{released.name}.oci")

    def blob(descriptor):
        return (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()

    (described,) = json.loads((layout / "index.json").read_text())["manifests"]
    layers = json.loads(blob(described))["layers"]
    assert {layer["annotations"][oci.PATH]: blob(layer) for layer in layers} == content(released)


def test_any_flipped_byte_is_found_and_so_is_a_folder_that_is_a_link(released, tmp_path):
    received.verify(released)
    for name, data in content(released).items():
        (released / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(CheckFailed):
            received.verify(released)
        (released / name).write_bytes(data)
    shutil.move(released / "cpu", tmp_path / "cpu")
    (released / "cpu").symlink_to(tmp_path / "cpu")
    with pytest.raises(CheckFailed, match="cpu is a link"):
        received.verify(released)


def test_each_target_must_have_passed_its_check(checked, file):
    write_record(quality._path(checked[1][0]), {})
    with pytest.raises(CheckFailed, match="tiny-int4-cuda is not released: no twin") as caught:
        release.release(checked, file)
    assert caught.value.action == "doit check:tiny-int4-cuda" and not (paths.DIST / "releases").exists()


def test_where_tokenizers_differ_each_variant_keeps_its_own(checked, monkeypatch):
    monkeypatch.setattr(package, "ONE_S_OWN", (*package.ONE_S_OWN, "tokenizer_config.json"))
    parts = [release.facts.part_of(*both) for both in checked]
    kept = package.contents("x", parts)
    assert "cpu/tokenizer_config.json" in kept and "cpu/tokenizer.json" not in kept
    parts[1].files["tokenizer.json"] = ("0" * 64, 1)
    kept = package.contents("x", parts)
    assert {f"{name}/tokenizer.json" for name in DEVICES} <= set(kept) and package.tokenizer(parts) is None
    assert kept["cpu/genai_config.json"].digest == parts[0].files["genai_config.json"][0]  # as it was checked


def test_a_device_without_an_execution_provider_of_a_name_is_refused(checked, monkeypatch):
    monkeypatch.setattr(package, "device", lambda name: type(device(name))("NPU"))
    with pytest.raises(TargetError, match="containers/cpu/device.toml has no ep"):
        package.contents("x", [release.facts.part_of(*both) for both in checked])


CPU = '# Mine.\nlike = "tiny-int4-cpu"\n'
ONNX = CPU + '[[pass]]\nuse = "export"\n[[pass]]\nuse = "optimize"\n[[pass]]\nuse = "package_onnx"\n'


@pytest.mark.parametrize(
    ("text", "fact", "action"),
    [
        ("targets = []", "targets is empty", ""),
        ('targets = ["tiny-int4-cpu", "tiny-int4-cpu"]', "targets names tiny-int4-cpu twice", ""),
        ('targets = ["tiny-int4-cqu"]', "no target is named 'tiny-int4-cqu'", "Did you mean 'tiny-int4-cpu'?"),
        ('targets = ["tiny-int4-cpu", "tiny-fp32-cpu"]', "are both for cpu", "Remove one of them."),
        ('targets = ["tiny-int4-cpu", "qwen-int4-cuda"]', "are of different checkpoints", "[source]"),
        ('targets = ["tiny-int4-cuda", "onnx"]', "end with different passes", "[[pass]]"),
        ('targets = ["broken"]', "broken is broken", "Did you mean 'cpu'?"),
        ('target = ["tiny-int4-cpu"]', "unknown key 'target'", "Did you mean 'targets'?"),
        ('targets = "tiny-int4-cpu"', "is not a list", "Write a list"),
        ('version = "1"', "key 'targets' is missing", "Add targets"),
        ("targets = [", "is not TOML", "Mend that line."),
    ],
)
def test_a_wrong_release_file_is_a_clear_error(tmp_path, text, fact, action):
    (tmp_path / "onnx.toml").write_text(ONNX)
    (tmp_path / "broken.toml").write_text(CPU + 'device = "cqu"\n')
    (tmp_path / "mine.release.toml").write_text(text)
    broken = {n: t for n, t in read_targets([paths.TARGETS, tmp_path]).items() if isinstance(t, TargetError)}
    assert [*broken] == ["broken"]
    error = read_releases([tmp_path], planned(tmp_path), broken)[1]["mine"]
    assert isinstance(error, TargetError) and "mine.release.toml" in error.fact
    assert fact in error.fact and error.cause and action in error.action


def test_a_release_has_a_name_of_its_own(tmp_path):
    (tmp_path / "tiny-int4-cpu.release.toml").write_text('targets = ["tiny-int4-cuda"]')
    error = read_releases([tmp_path], planned(), {})[1]["tiny-int4-cpu.release"]
    assert "a target is named tiny-int4-cpu, too" in error.fact


def test_shipped_release_files_are_read_and_are_no_targets():
    plan = tasks.load_plan()
    shipped = {f.name.removesuffix(".release.toml") for f in paths.TARGETS.glob("*.release.toml")}
    assert set(plan.releases) == shipped and not plan.broken
    assert not [n for n in (*plan.targets, *plan.broken) if n in shipped or n.endswith(".release")]
    assert misnamed_by(plan, "release:tiny-int4") is None and misnamed_by(plan, "show:tiny-int4") is None
    assert misnamed_by(plan, "build:tiny-int4").action == "doit release:tiny-int4, or doit show:tiny-int4."
    assert misnamed_by(plan, "release:tiny-int5").action == "Did you mean 'tiny-int4'?"


def test_a_person_sees_releases_beside_targets(tmp_path):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "wrong.release.toml").write_text("targets = []")
    builder = Builder(tmp_path, settings={"ONNXMAKE_TARGETS": str(tmp_path / "targets")})
    printed = builder.run("list")
    assert re.search(r"^tiny-int4 +0 of 3 built +The embedded", printed, re.MULTILINE)
    assert re.search(r"^wrong +BROKEN +.*targets is empty", printed, re.MULTILINE)
    assert 'targets = ["tiny-int4-cpu", "tiny-int4-cuda", "tiny-int4-directml"]' in builder.run("show:tiny-int4")
    assert "targets is empty" in builder.fail("release:wrong")
    assert "targets is empty" in builder.fail("show:wrong")
    assert os.listdir(tmp_path / "targets") == ["wrong.release.toml"]
