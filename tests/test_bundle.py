"""Bundles: what leaves for the device's machine runs there by itself, and only a result of exactly these bytes comes back."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from builder import STEPS, Builder, passes

from onnxmake.build import environment, paths, results
from onnxmake.build.device import device
from onnxmake.build.target import read_target
from onnxmake.errors import StoreError

TINY = paths.TARGETS / "tiny"
BENCH = "[bench]\nprompt_tokens = [4, 8]\nnew_tokens = 4\nrepeats = 2\n"
PLAIN = passes("export", "optimize", "package_genai")  # float32, which the CPU provider runs of any device's table
GPU = {"cuda": "NVIDIA H100", "directml": "AMD Radeon 780M", "webgpu": "Intel Arc 140V"}


def add(builder: Builder, name: str, kind: str, text: str = PLAIN) -> str:
    """Add a target of the device `kind`; returns its name. No GPU can be used, whatever the machine has."""
    builder.settings["ONNXMAKE_GPUS"] = ""
    builder.target(name, TINY, text + BENCH)
    file = Path(builder.settings["ONNXMAKE_TARGETS"], f"{name}.toml")
    file.write_text(file.read_text().replace('device = "cpu"', f'device = "{kind}"'))
    return name


def bundle(builder: Builder, name: str) -> Path:
    return builder.output / "dist" / "bundles" / name


def state(builder: Builder, name: str) -> str:
    return json.loads((builder.dist(name) / "manifest.json").read_text())["status"]


def row(printed: str, name: str) -> list[str]:
    """The cells of the target's first row in the table."""
    return next(line.split() for line in printed.splitlines() if line.startswith(f"{name} "))


def measure(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the program as the bundle's script does, in the locked environment; returns what it printed."""
    command = [environment.ensure("cpu"), "-m", "onnxmake.model.bundled", ".", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={"PATH": os.defpath}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == code and "Traceback" not in done.stdout, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Builder:
    """Bundles of one target for each device, not to be changed."""
    builder = Builder(tmp_path_factory.mktemp("made"))
    builder.run(*(f"bundle:{add(builder, f'far-{kind}', kind)}" for kind in GPU))
    return builder


@pytest.fixture(scope="module")
def carried(made, tmp_path_factory) -> Path:
    """A bundle as it lies on another machine, not to be changed either."""
    return Path(shutil.copytree(bundle(made, "far-directml"), tmp_path_factory.mktemp("carried") / "here"))


@pytest.fixture(scope="module")
def measured(carried) -> dict:
    """What the bundle's program measures on the CPU."""
    measure(carried, "--device", "CPU")
    return json.loads((carried / "result.json").read_text())


@pytest.fixture
def far(tmp_path) -> Builder:
    """A bundle of the target `far-directml` in an output folder of the test's own."""
    builder = Builder(tmp_path)
    builder.run(f"bundle:{add(builder, 'far-directml', 'directml')}")
    return builder


@pytest.fixture
def bring(far, measured):
    """Put a result back into the bundle as it would come from the device, but for what is given."""

    def write(**changed) -> dict:
        machine = measured["machine"] | {"gpu": GPU["directml"]}
        result = measured | {"device": device("directml").provider, "machine": machine} | changed
        (bundle(far, "far-directml") / "result.json").write_text(json.dumps(result))
        return result

    return write


def test_a_bundle_measures_by_itself_where_the_checkout_cannot_be_seen(made, carried, measured):
    seen = subprocess.run([environment.ensure("cpu"), "-c", "import onnxmake"], cwd="/", env={}, capture_output=True)
    assert b"ModuleNotFoundError" in seen.stderr
    assert not (carried / "result.json.new").exists()
    assert measured["target"] == "far-directml" and measured["device"] == "CPU"
    assert measured["files"] == json.loads((made.dist("far-directml") / "manifest.json").read_text())["files"]
    assert measured["settings"] == {"prompt_tokens": [4, 8], "new_tokens": 4, "repeats": 2}
    assert [run["prompt_tokens"] for run in measured["runs"]] == [4, 8]
    assert all(run[of]["p50"] > 0 for run in measured["runs"] for of in ("first_token_s", "prefill", "decode"))
    assert measured["load_s"] > 0 and measured["peak_bytes"] > 1e6
    assert {"cpu", "cores", "system"} == set(measured["machine"])


def test_the_program_imports_no_package_that_a_lock_of_a_device_lacks(carried, measured):
    python = environment.ensure("cpu")
    asked = (
        "import sys, onnxmake.model.bundled, onnxruntime_genai; print(*{name.split('.')[0] for name in sys.modules})"
    )
    printed = subprocess.check_output([python, "-c", asked], cwd=carried, env={"PATH": os.defpath}, text=True)
    (packages,) = python.parent.parent.glob("lib/python3.*/site-packages")
    assert {n for n in printed.split() if (packages / n).exists()} <= {"numpy", "onnxruntime", "onnxruntime_genai"}


@pytest.mark.parametrize("kind", GPU)
def test_a_bundle_holds_the_model_the_program_the_lock_and_the_scripts(made, kind):
    folder, containers = bundle(made, f"far-{kind}"), paths.CONTAINERS / kind
    scripts = {file.name: file for file in (*(containers / "bundle").iterdir(), *containers.glob("*.ps1"))}
    files = scripts | {"requirements.lock": containers / "requirements.lock"}
    assert {p.name for p in folder.iterdir()} == {*files, "bundle.json", "model", "onnxmake"}
    assert all((folder / name).read_bytes() == file.read_bytes() for name, file in files.items())
    model = {p.name: p.read_bytes() for p in made.dist(f"far-{kind}").iterdir() if p.name != "manifest.json"}
    assert {p.name: p.read_bytes() for p in (folder / "model").iterdir()} == model
    assert all(p.stat().st_nlink == 1 and not p.is_symlink() for p in folder.rglob("*") if p.is_file())


def test_a_flavour_is_the_lock_that_goes_along(far):
    far.run("flavour=windowsml", "bundle:far-directml")
    flavour = paths.CONTAINERS / "directml" / "windowsml.lock"
    assert (bundle(far, "far-directml") / "requirements.lock").read_bytes() == flavour.read_bytes()


def test_an_unknown_flavour_is_an_error_that_names_those_there_are_and_the_bundle_stays(made):
    before = (bundle(made, "far-directml") / "requirements.lock").read_bytes()
    printed = made.fail("flavour=windowsm", "bundle:far-directml")
    assert "no flavour 'windowsm'" in printed and "requirements, windowsml" in printed
    assert (bundle(made, "far-directml") / "requirements.lock").read_bytes() == before


def change(file: Path, at: int = 0) -> None:
    """Flip a bit, and leave size and times."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: change(f / "model" / "model.onnx.data", -1), "model.onnx.data is not what was packed"),
        (lambda f: change(f / "model" / "model.onnx"), "model.onnx is not what was packed"),
        (lambda f: os.truncate(f / "model" / "model.onnx.data", 100), "model.onnx.data is not what was packed"),
        (lambda f: (f / "model" / "genai_config.json").unlink(), "genai_config.json is missing"),
        (lambda f: (f / "bundle.json").unlink(), "no bundle.json"),
        (lambda f: os.truncate(f / "bundle.json", 50), "no bundle.json"),
    ],
    ids=["flipped weight", "flipped graph", "cut off", "missing", "no description", "cut description"],
)
def test_the_program_refuses_what_is_not_what_was_packed(carried, measured, tmp_path, damage, said):
    folder = shutil.copytree(carried, tmp_path / "copy")
    (folder / "result.json").unlink()
    damage(folder)
    printed = measure(folder, "--device", "CPU", code=1)
    assert said in printed and "ERROR" in printed and "Copy it again" in printed
    assert not (folder / "result.json").exists()


def test_the_program_says_that_the_device_is_not_there_and_keeps_the_last_result(carried, measured):
    printed = measure(carried, code=1)
    assert "ERROR" in printed and "DirectML" in printed and "Likely cause:" in printed and "Next:" in printed
    assert json.loads((carried / "result.json").read_text()) == measured


def stand_in(folder: Path, *, after: str = "") -> Path:
    """A folder with a python3.11 whose venvs run the program on the CPU, and `after` it; they note what they were called with."""
    calls, made = folder / "calls", folder / "python-of-a-venv"
    folder.mkdir(exist_ok=True)
    made.write_text(
        f"""#!/bin/sh
echo "$*" >> {calls}
[ "$2" = pip ] && exit 0
{environment.ensure("cpu")} "$@" --device CPU || exit $?
{after}
"""
    )
    maker = folder / "python3.11"
    maker.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nmkdir -p "$3/bin" && cp {made} "$3/bin/python"\n')
    for script in (made, maker):
        script.chmod(0o755)
    return folder


def test_the_script_makes_its_environment_once_for_each_lock(made, tmp_path):
    folder, programs = shutil.copytree(bundle(made, "far-cuda"), tmp_path / "copy"), stand_in(tmp_path / "programs")
    making = [
        "-m venv venv",
        "-m pip install --disable-pip-version-check --no-input --no-deps --require-hashes --only-binary=:all: "
        "-r requirements.lock",
    ]

    def run() -> list[str]:
        """What was called; the script stands elsewhere."""
        (programs / "calls").write_text("")
        command = ["sh", str(folder / "run.sh")]
        subprocess.run(command, cwd=tmp_path, env={"PATH": f"{programs}:{os.defpath}"}, check=True)
        return (programs / "calls").read_text().splitlines()

    assert run() == [*making, "-m onnxmake.model.bundled ."]
    assert json.loads((folder / "result.json").read_text())["target"] == "far-cuda"
    assert run() == ["-m onnxmake.model.bundled ."]
    (folder / "requirements.lock").write_text("# another\n")
    assert run() == [*making, "-m onnxmake.model.bundled ."]


def test_what_came_back_is_in_the_table_the_manifest_and_the_list(far, bring):
    assert state(far, "far-directml") == "built, not run on directml"
    result = bring()
    printed = far.run("bench:far-directml")
    cells = row(printed, "far-directml")
    assert cells[1] == "4" and f"{result['runs'][0]['decode']['p50']:.1f}" in cells
    assert f"{GPU['directml']}; {result['machine']['cpu']}" in printed
    assert state(far, "far-directml") == f"run on {GPU['directml']}"
    assert far.run("build:far-directml") == "build:far-directml: up to date\n"
    assert "built, run" in " ".join(row(far.run("list"), "far-directml"))
    assert "| far-directml" in (far.output / "build" / "bench" / "bench.md").read_text()


def test_what_came_back_is_still_known_after_the_same_bytes_were_bundled_or_delivered_again(far, bring):
    bring()
    before = row(far.run("bench"), "far-directml")
    far.run("bundle:far-directml")
    assert not (bundle(far, "far-directml") / "result.json").exists()
    far.run("clean", "build:far-directml")
    far.run("build:far-directml")
    assert state(far, "far-directml") == f"run on {GPU['directml']}"
    assert row(far.run("bench"), "far-directml") == row(far.run("bench:far-directml"), "far-directml") == before


def test_another_build_was_not_run_and_the_old_result_is_refused(far, bring):
    bring()
    far.run("bench:far-directml")
    far.run(f"build:{add(far, 'far-directml', 'directml', passes(*STEPS, bits=8))}")
    assert state(far, "far-directml") == "built, not run on directml"
    printed = far.fail("bench:far-directml")
    assert "is of another build" in printed and "doit bundle:far-directml" in printed
    assert "built, not run on directml" in printed and state(far, "far-directml") == "built, not run on directml"
    far.run("bundle:far-directml")
    assert "built, not run on directml" in far.run("bench")


def edited(*keys: str | int, **changed):
    """From a result, the text of one that lacks what the keys lead to, and has other values."""

    def text(result: dict) -> str:
        result = json.loads(json.dumps(result | changed))
        place = result
        for key in keys[:-1]:
            place = place[key]
        if keys:
            del place[keys[-1]]
        return json.dumps(result)

    return text


REFUSED = {
    "cut off": (lambda result: edited()(result)[:-100], "is no result"),
    "empty": (lambda result: "", "is no result"),
    "a list": (lambda result: f"[{edited()(result)}]", "is no result"),
    "lacks a figure": (edited("runs", 0, "decode"), "is no result"),
    "lacks the processor": (edited("machine", "cpu"), "is no result"),
    "lacks the files": (edited("files"), "is no result"),
    "no runs": (edited(runs=[]), "is no result"),
    "runs of another type": (edited(runs=None), "is no result"),
    "a machine of another type": (edited(machine="a PC"), "is no result"),
    "a text for a number": (edited(load_s="1"), "is no result"),
    "another target": (edited(target="tiny-int4-directml"), "is of another build"),
    "other files": (edited("files", "model.onnx"), "is of another build"),
    "another device": (edited(device="CPU"), "was measured on CPU, not on DirectML"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_result_of_this_build_on_this_device_is_refused(made, measured, output, tmp_path, text, said):
    target = read_target(Path(made.settings["ONNXMAKE_TARGETS"], "far-directml.toml"))
    shutil.copytree(made.dist(target.name), paths.DIST / target.name)
    returned = tmp_path / "result.json"
    returned.write_text(text(measured | {"device": device("directml").provider}))
    with pytest.raises(StoreError) as caught:
        results.merge(target, returned)
    assert f"result.json {said}" in caught.value.fact and caught.value.cause and caught.value.action
    assert not paths.BUILD.exists()


def test_a_kept_result_that_was_damaged_is_none_and_builds_go_on(far, bring):
    bring()
    far.run("bench:far-directml")
    (bundle(far, "far-directml") / "result.json").unlink()
    os.truncate(far.output / "build" / "bench" / "far-directml.json", 100)
    far.run("build:far-directml")
    assert state(far, "far-directml") == "built, not run on directml"
    assert "built, not run on directml" in far.run("bench")


@pytest.mark.parametrize("task", ["bench", "try"])
@pytest.mark.parametrize(
    ("kind", "lacking"),
    [("directml", "it needs Windows"), ("cuda", "no GPU can be used here"), ("webgpu", "no GPU can be used here")],
)
def test_a_target_asked_for_by_name_whose_device_is_not_here_is_an_error_that_names_the_ways(made, task, kind, lacking):
    printed = made.fail(f"{task}:far-{kind}")
    assert lacking in printed and f"doit bundle:far-{kind}" in printed and f"{kind}_host=USER@HOST" in printed


def test_all_are_measured_that_can_be_and_the_others_are_said(tmp_path):
    builder = Builder(tmp_path)
    names = [add(builder, name, kind) for name, kind in (("near", "cpu"), ("a", "directml"), ("z", "cuda"))]
    builder.run(*(f"build:{name}" for name in names))
    listed = builder.run("list")
    assert all("built, not run" in " ".join(row(listed, name)) for name in names)
    assert row(listed, "tiny-int4-directml")[1] == "-"
    printed = builder.run("bench")
    assert "built, not run on directml" in printed and "built, not run on cuda" in printed
    assert row(printed, "near")[1] == "4" and len(row(printed, "near")) == 10
    assert "tiny-int4-directml" not in printed
    listed = builder.run("list")
    assert [" ".join(row(listed, name)).count("built, run") for name in names] == [1, 0, 0]
    assert [state(builder, name).split(" on ")[0] for name in names] == ["run", "built, not run", "built, not run"]


def test_what_is_measured_is_what_was_built_also_where_target_and_checkpoint_have_changed_since(tmp_path):
    builder, copy = Builder(tmp_path / "out"), shutil.copytree(TINY, tmp_path / "checkpoint")
    text = passes(*STEPS, bits=8) + BENCH
    builder.target("x", copy, text)
    builder.target("y", copy, text.replace("bits = 8", "bits = 4"))
    builder.run("build:x", "build:y")
    builder.target("x", copy, text.replace("bits = 8", "bits = 4"))
    shutil.rmtree(copy)
    files = json.loads((builder.dist("x") / "manifest.json").read_text())["files"]
    assert row(builder.run("bench:x"), "x")[3] == "?"  # of the checkpoint's size
    assert json.loads((builder.dist("x") / "manifest.json").read_text())["files"] == files
    assert state(builder, "x").startswith("run on ")


def test_a_damaged_manifest_is_no_build_and_is_made_again(far):
    os.truncate(far.dist("far-directml") / "manifest.json", 20)
    assert row(far.run("list"), "far-directml")[1] == "-"
    far.run("bundle:far-directml")
    assert state(far, "far-directml") == "built, not run on directml"
