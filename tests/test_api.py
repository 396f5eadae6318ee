"""onnxmake from Python: the documented example, and that it does what doit does."""

import dataclasses
import io
import json
import re
import subprocess
import sys
import threading

import pytest
from builder import passes

import onnxmake
from onnxmake import api
from onnxmake.build import check as checks
from onnxmake.build import paths, report, results, settings, talk, twin
from onnxmake.errors import CheckFailed, TargetError

NAME = "tiny-int4-cpu"


@pytest.fixture(autouse=True)
def in_venvs(monkeypatch):
    monkeypatch.setenv("ONNXMAKE_RUNNER", "venv")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_that_a_process_says_is_printed(capsys):
    heard: list[str] = []
    ends = threading.Event()

    class Worker:
        stdin, stdout = io.StringIO(), ["@onnxmake " + json.dumps({"done": 1, "total": 2}) + "\n"]

        def wait(self, timeout=None):
            ends.wait(5)
            return 0

        def end(self):
            pass

    def draw(done, total):
        report.say(f"{done} of {total}")
        ends.set()

    with report.heard_by(heard.append):
        talk.talk(Worker(), 5, {}, io.StringIO(), draw, print, {})
    assert (heard, capsys.readouterr().out) == (["1 of 2"], "")


def test_the_documented_example_runs(delivered, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (paths.ROOT / "docs" / "api.md").read_text("utf-8"), re.DOTALL)
    said: dict = {}
    exec(compile(example, "docs/api.md", "exec"), said)
    printed = capsys.readouterr().out
    assert said["built"].folder == paths.DIST / NAME
    assert "dist up to date" in printed and "quantize_rtn up to date" in printed
    assert "bits = 5 is not one of 2, 4, 8" in printed and "Next:" in printed
    assert said["variant"].name == "tiny-int4-block64" and printed.endswith("False\n")


def test_what_doit_has_built_is_up_to_date_and_described_as_the_manifest_has_it(delivered, capsys):
    before = results.delivered(api.load_target(NAME))
    built = onnxmake.build(NAME)
    assert [step.verb for step in built.steps] == ["up to date"] * 4
    assert {name: [f.sha256, f.size] for name, f in built.files.items()} == before["files"]
    assert [step.key for step in built.steps] == [step["key"] for step in before["steps"]]
    assert built.size == sum(f.stat().st_size for f in built.folder.iterdir() if f.name != "manifest.json")
    assert onnxmake.plan(NAME).up_to_date
    assert capsys.readouterr() == ("", "")


def test_a_changed_target_is_planned_built_and_told_of_to_who_listens(delivered, capsys):
    target = api.with_options(api.load_target(NAME), "quantize_rtn", block_size=128)
    target = dataclasses.replace(target, name="other")
    planned = [(step.name, step.verdict) for step in api.plan(target).steps]
    assert planned[:3] == [("source", "up to date"), ("export", "up to date"), ("optimize", "up to date")]
    assert not (paths.DIST / "other").exists()
    lines: list[str] = []
    built = api.build(target, say=lines.append)
    assert [step.verb for step in built.steps[:2]] == ["up to date", "up to date"]
    assert {step.verb for step in built.steps[2:]} <= {"ran", "restored"}  # the store is the user's own
    assert built.folder == paths.DIST / "other" and (built.folder / "model.onnx").is_file()
    assert any("quantize_rtn" in line for line in lines) and "build:other" in lines[-1]
    assert [step.verb for step in api.build(target).steps] == ["up to date"] * 4
    assert built.size < api.build(NAME).size
    assert capsys.readouterr() == ("", "")


def test_a_file_of_any_folder_may_be_like_a_shipped_target_or_one_beside_it(delivered, tmp_path, monkeypatch):
    (tmp_path / "first.toml").write_text(f'like = "{NAME}"\n')
    (tmp_path / "own.toml").write_text(f'device = "cpu"\n[source]\npath = "."\n{passes("export", "package_genai")}')
    (tmp_path / "second.toml").write_text('like = "own"\n')
    monkeypatch.chdir(tmp_path)
    shipped = api.load_target(NAME)
    assert api.load_target("first.toml").passes == shipped.passes
    assert api.load_target(tmp_path / "second.toml").source.path == "."
    assert {step.verb for step in api.build("first.toml").steps} == {"up to date"}


def test_another_checkpoint_is_told_where_it_is_wrong(delivered, tmp_path):
    with pytest.raises(onnxmake.OnnxmakeError) as caught:
        api.build(NAME, source=tmp_path / "nowhere")
    assert "nowhere" in caught.value.fact and caught.value.action
    told = api.plan(NAME, source=tmp_path / "nowhere").steps[0]
    assert told.verdict == "run" and "it will fail" in told.reasons[0]


@pytest.mark.parametrize(
    ("named", "fact", "action"),
    [
        ("tiny-int4-cpo", "No target is named 'tiny-int4-cpo'.", "Did you mean 'tiny-int4-cpu'?"),
        ("nowhere.toml", "nowhere.toml does not exist.", "Correct the path."),
    ],
)
def test_a_target_that_is_not_there_is_an_error(named, fact, action):
    with pytest.raises(TargetError) as caught:
        api.load_target(named)
    assert (caught.value.fact, caught.value.action) == (fact, action)


def test_options_are_read_as_strictly_as_a_file_s():
    target = api.load_target(NAME)
    for wrong, expected in (({"bits": 5}, "bits = 5 is not one of 2, 4, 8"), ({"bit": 4}, "unknown key 'bit'")):
        with pytest.raises(TargetError, match=expected):
            api.with_options(target, "quantize_rtn", **wrong)
    with pytest.raises(TargetError, match="has no pass 'quantize_rtm'") as caught:
        api.with_options(target, "quantize_rtm", bits=4)
    assert caught.value.action == "Did you mean 'quantize_rtn'?"
    same = api.with_options(target, "quantize_rtn", int8=("model.layers.*",))
    assert same.passes[2].options.int8 == ("model.layers.*",) and same.passes[1] == target.passes[1]


def test_a_file_that_an_option_names_is_the_step_s_and_of_its_key(tmp_path):
    target = api.load_target("tiny-gptq-cpu")
    (tmp_path / "text.txt").write_text("one text")
    other = api.with_options(target, "quantize_gptq", calibration=str(tmp_path / "text.txt"), samples=4)
    (use,) = (use for use in other.passes if use.declaration.name == "quantize_gptq")
    assert dict(use.files) == {"calibration.txt": tmp_path / "text.txt"}
    assert (use.options.calibration, use.options.samples) == ("calibration.txt", 4)
    (again,) = (
        u for u in api.with_options(other, "quantize_gptq", bits=4).passes if u.declaration.name == "quantize_gptq"
    )
    assert dict(again.files) == dict(use.files)
    with pytest.raises(TargetError, match="calibration = 'nowhere.txt' is no file"):
        api.with_options(target, "quantize_gptq", calibration="nowhere.txt")


def test_what_a_file_could_not_say_is_refused_of_an_object_too():
    target = api.load_target(NAME)
    use = target.passes[2]
    wrong = dataclasses.replace(use, options=dataclasses.replace(use.options, bits=5))
    for changed, expected in (
        ({"name": "../elsewhere"}, "cannot be the name of a target"),
        ({"name": ""}, "cannot be the name of a target"),
        ({"name": "releases"}, "cannot be the name of a target"),
        ({"passes": ()}, "has no passes"),
        ({"passes": target.passes[:3]}, "no pass packages the model"),
        ({"device": "cuda"}, "device = 'cpu', and the target is for cuda"),
        ({"passes": (*target.passes[:2], wrong, *target.passes[3:])}, "quantize_rtn: bits = 5 is not one of 2, 4, 8"),
    ):
        with pytest.raises(TargetError, match=expected):
            api.build(dataclasses.replace(target, **changed))


def test_bench_answers_with_figures_of_the_built_model(delivered, capsys):
    target = dataclasses.replace(api.load_target(NAME), bench=onnxmake.Bench((8,), 4, 2))
    measured = onnxmake.bench(target)
    (run,) = measured.runs
    assert (run.prompt_tokens, measured.target) == (8, NAME)
    assert run.first_token_s.p50 > 0 and run.prefill.p50 > 0 and run.decode.p50 > 0 and measured.peak_bytes > 1e6
    assert measured.machine["cores"] and capsys.readouterr().out == ""


def test_a_model_without_text_has_no_decode_speed():
    spread = {"p50": 1.0, "p90": 2.0}
    run = {"prompt_tokens": 8, "first_token_s": spread, "prefill": spread, "decode": None}
    result = {"target": "x", "machine": {}, "load_s": 0.5, "peak_bytes": 7, "runs": [run]}
    assert api.Measured.of(result).runs == (api.Run(8, api.Spread(1.0, 2.0), api.Spread(1.0, 2.0), None),)


def test_check_answers_with_metrics_and_raises_for_a_gate_that_is_missed(delivered, monkeypatch, capsys):
    found = {"metrics": {"kl": 0.01, "top1": 0.95}, "counted": 10, "of": "tokens"}
    monkeypatch.setattr(checks.evaluation, "evaluate", lambda target, steps: found)
    monkeypatch.setattr(twin, "compare", lambda target, checkpoint: {"prefill": 1e-6})
    target = dataclasses.replace(api.load_target(NAME), check=onnxmake.Check(max_kl=0.02))
    checked = onnxmake.check(target)
    assert checked.metrics["kl"] == 0.01 and checked.metrics["size_mb"] > 1 and checked.gates == {"max_kl": 0.02}
    with pytest.raises(CheckFailed, match="misses 1 of 1 gates: max_kl"):
        onnxmake.check(dataclasses.replace(target, check=onnxmake.Check(max_kl=0.001)))
    assert capsys.readouterr().out == ""


def test_a_setting_is_given_for_one_call_of_one_thread(monkeypatch):
    monkeypatch.setenv("ONNXMAKE_RUNNER", "docker")
    seen = []
    with settings.given(runner="venv"), report.heard_by(seen.append):
        with settings.given(runner=""):
            assert settings.setting("runner") == "docker"
        assert settings.setting("runner") == "venv"
        other = threading.Thread(target=lambda: seen.append(settings.setting("runner")))
        other.start()
        other.join()
    assert seen == ["docker"] and settings.setting("runner") == "docker"
    with pytest.raises(TargetError, match="runner=dokker is none that there is"):
        api.plan(NAME, runner="dokker")


def test_a_long_step_s_progress_is_told_to_who_asked_though_another_thread_counts(monkeypatch, capsys):
    clock = iter([0.0, 11.0, 22.0])
    monkeypatch.setattr(report.time, "monotonic", lambda: next(clock))
    heard: list[str] = []
    with report.heard_by(heard.append), report.bar("fetch") as draw:
        other = threading.Thread(target=draw, args=(10**6, 10**7))
        other.start()
        other.join()
    assert heard == ["  fetch: 1 of 10 MB, 0 MB/s"] and capsys.readouterr() == ("", "")


def test_importing_onnxmake_loads_neither_api_nor_host_side():
    loaded = "[m for m in sys.modules if m.startswith('onnxmake.')]"
    code = f"import sys, json, onnxmake; print(json.dumps({loaded})); onnxmake.plan; onnxmake.build; print(json.dumps({loaded}))"
    before, after = map(json.loads, python(code).splitlines())
    assert before == [] and "onnxmake.api" in after


def test_the_function_and_the_package_of_one_name_are_one_whatever_comes_first():
    for first in ("onnxmake.build", "onnxmake.plan"):
        code = (
            f"import onnxmake\n{first}\nfrom onnxmake.build import paths\nimport onnxmake.build as package\n"
            "assert package is onnxmake.build and callable(package) and package.paths is paths\n"
            "try:\n    onnxmake.build('tiny')\nexcept onnxmake.OnnxmakeError as error:\n    print(error.fact)"
        )
        assert python(code) == "No target is named 'tiny'.\n"


def test_the_package_offers_what_the_api_names_and_nothing_else():
    assert all(getattr(onnxmake, name) is getattr(api, name) for name in api.__all__ if name != "build")
    for name in ("nothing", "paths", "_steps"):
        with pytest.raises(AttributeError, match=f"module 'onnxmake' has no attribute '{name}'"):
            getattr(onnxmake, name)


def test_types_are_known_to_who_uses_the_package(tmp_path):
    (tmp_path / "uses.py").write_text(
        "import onnxmake\n"
        "folder: str = onnxmake.build('x').folder\n"
        "onnxmake.build(3)\n"
        "onnxmake.bild('x')\n"
        "seconds: float | None = onnxmake.plan(onnxmake.load_target('x')).steps[0].seconds\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports", "silent", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*command, str(tmp_path / "uses.py")], cwd=paths.ROOT, capture_output=True, text=True)
    assert re.findall(r"uses.py:(\d+): error: .*\[([a-z-]+)\]", done.stdout) == [
        ("2", "assignment"),
        ("3", "arg-type"),
        ("4", "attr-defined"),
    ], done.stdout
