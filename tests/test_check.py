"""doit check: a twin after a target's passes, against Transformers; figures, gates and when they are found anew; and builds of
what is not proven."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from builder import Builder, passes
from twins import make_twin

from onnxmake.build import check, closure, execute, paths, quality, results, runner, twin
from onnxmake.build.declaration import declaration
from onnxmake.build.gates import Check
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.target import Use, read_target
from onnxmake.errors import CheckFailed, TargetError

pytestmark = pytest.mark.slow


def test_the_tiny_target_is_right_on_a_twin_and_near_the_unquantised_model(tmp_path):
    builder = Builder(tmp_path)
    printed = builder.run("check:tiny-int4-cpu")
    errors = re.search(r"right on a twin \(prefill (\S+), decode (\S+); at most 1e-04\)", printed)
    assert errors is not None and 0 < float(errors[1]) < 1e-4
    assert re.search(r"KL divergence, mean nats +0\.0\d+ +at most 0\.0250 +met by 0\.0\d+\n", printed)
    assert "8,176 tokens of" in printed and "MISSED" not in printed
    manifest = json.loads((builder.dist("tiny-int4-cpu") / "manifest.json").read_text())
    assert 0.005 < manifest["quality"]["metrics"]["kl"] < 0.025
    again = builder.run("check:tiny-int4-cpu")
    assert "build:tiny-int4-cpu: up to date" in again and "made: twin" not in again
    assert printed[printed.index("metric  ") :] == again[again.index("metric  ") :]


@pytest.mark.parametrize(
    ("worst", "right"), [(9e-5, True), (2e-4, False), (float("nan"), False), (float("inf"), False)]
)
def test_a_twin_that_differs_by_more_than_the_tolerance_fails(delivered, tmp_path, monkeypatch, worst, right):
    target = read_target(paths.TARGETS / "tiny-fp32-cpu.toml")
    checkpoint = checkpoint_of(target)
    execute.make_source(checkpoint)
    real, asked = runner.run, []

    def run(job, action, *rest, **options):
        if "graph" not in action:
            return real(job, action, *rest, **options)
        asked.append(action["device"])
        return {"prefill": worst, "decode": 1e-6}

    shutil.copytree(paths.TARGETS / "tiny", tmp_path / "twin")
    monkeypatch.setattr(twin, "_twin", lambda target, checkpoint: tmp_path / "twin")
    monkeypatch.setattr(runner, "run", run)
    if right:
        assert twin.compare(target, checkpoint) == {"prefill": worst, "decode": 1e-6}
    else:
        with pytest.raises(CheckFailed, match="tiny-fp32-cpu: its twin computes something else"):
            twin.compare(target, checkpoint)
    assert asked == ["cpu"]


@pytest.fixture
def asked(delivered, monkeypatch):
    """What was not answered from records: "twin", or the action of an evaluation. Both are answered at once."""
    made: list = []
    metrics = {"perplexity": 11.6, "perplexity_unquantised": 11.4, "perplexity_rise": 0.0175}
    found = {"metrics": metrics | {"kl": 0.019, "kl_p99": 0.09, "top1": 0.92}, "counted": 8176, "of": "tokens"}
    monkeypatch.setattr(twin, "compare", lambda target, checkpoint: made.append("twin") or {"prefill": 1e-6})
    monkeypatch.setattr(runner, "run", lambda job, action, *rest, **options: made.append(action) or found)
    return made


def checked(name="tiny-int4-cpu", **gates):
    """The target with other gates, as if its file had them, and its steps."""
    target = read_target(paths.TARGETS / f"{name}.toml")
    target = dataclasses.replace(target, check=Check(**gates)) if gates else target
    return target, steps_of(target, checkpoint_of(target))


def questions(asked):
    return ["twin" if question == "twin" else "evaluation" for question in asked]


def test_what_has_not_changed_is_not_asked_again(asked, delivered, monkeypatch, capsys):
    target, steps = checked()
    assert not quality.passed(target) and "no twin of tiny-int4-cpu was compared" in quality.lacking(target)
    check.check(target, steps)
    first = capsys.readouterr().out
    assert questions(asked) == ["twin", "evaluation"] and quality.passed(target)
    assert {k: asked[1][k] for k in ("window", "stride", "max_tokens", "whole")} == {
        "window": 512,
        "stride": 512,
        "max_tokens": 8192,
        "whole": True,
    }
    assert not Path(asked[1]["graph"]).parent.exists()
    check.check(target, steps)
    assert len(asked) == 2 and capsys.readouterr().out == first
    check.check(*checked(max_kl=0.5))  # another limit, the same figures
    assert len(asked) == 2
    manifest = json.loads((paths.DIST / target.name / "manifest.json").read_text())
    assert manifest["quality"]["metrics"]["kl"] == 0.019 and execute.is_delivered(target, steps)


def test_another_text_setting_evaluator_or_build_is(asked, delivered, monkeypatch, tmp_path):
    target, steps = checked()
    check.check(target, steps)
    asked.clear()
    (tmp_path / "own.txt").write_text("one")
    own = {"text": str(tmp_path / "own.txt"), "max_kl": 1.0}
    for gates in (own, own | {"window": 64}, own | {"window": 64, "stride": 8}):
        check.check(*checked(**gates))
        assert quality.passed(checked(**gates)[0]) and not quality.passed(target)
    assert [a["text"] for a in asked] == [own["text"]] * 3 and [a["whole"] for a in asked] == [False] * 3
    (tmp_path / "own.txt").write_text("two")
    assert not quality.passed(checked(**own)[0])
    check.check(*checked(**own))
    assert len(asked) == 4
    check.check(target, steps)
    asked.clear()
    real = closure.digests_of
    monkeypatch.setattr(
        closure, "digests_of", lambda names: real(names) | ({"x": "y"} if "onnxmake.model.evaluate" in names else {})
    )
    check.check(target, steps)
    assert questions(asked) == ["evaluation"]
    manifest = paths.DIST / target.name / "manifest.json"
    other = json.loads(manifest.read_text())
    other["steps"][2]["key"] = "0" * 64  # quantised by other code, to the same bytes: the twin's graph is another
    manifest.write_text(json.dumps(other))
    check.check(target, steps)
    assert questions(asked) == ["evaluation", "twin"]
    (paths.DIST / target.name / "genai_config.json").write_text("{}")
    assert "dist holds other files" in quality.lacking(target)


def test_a_gate_that_is_missed_fails_after_the_whole_table(asked, capsys):
    target, steps = checked(max_kl=0.01, min_top1=0.95, max_size_mb=100, max_kl_p99=1)
    with pytest.raises(CheckFailed, match="tiny-int4-cpu misses 2 of 4 gates: max_kl, min_top1"):
        check.check(target, steps)
    shown = capsys.readouterr().out
    assert shown.count("MISSED") == 2 and shown.count("met by") == 2 and "against the unquantised model" in shown
    assert "does not keep max_kl, min_top1" in quality.lacking(target)
    assert quality.passed(checked(max_kl=0.02)[0])


def test_a_gate_on_what_was_not_computed_is_an_error_that_names_it(asked, capsys):
    target, steps = checked(min_cosine=0.5, max_kl=0.02)
    with pytest.raises(TargetError, match="tiny-int4-cpu.toml: min_cosine under .check. limits what was not computed"):
        check.check(target, steps)
    assert "not computed" in capsys.readouterr().out and not quality.passed(target)


def test_a_text_that_is_not_there_is_an_error(asked):
    with pytest.raises(TargetError, match="text = 'nowhere.txt' under .check. is no file"):
        check.check(*checked(text="nowhere.txt"))


def bench(name, decode, prompts=(32, 256), cpu="a CPU"):
    """Record a bench of what is in dist/<name>."""
    files = results.delivered(read_target(paths.TARGETS / f"{name}.toml"))["files"]
    runs = [
        {"prompt_tokens": p, "first_token_s": {"p50": 1, "p90": 1}, "prefill": {"p50": 9.0, "p90": 9.0}}
        | {"decode": {"p50": decode * p, "p90": 1.0}}
        for p in prompts
    ]
    more = {"machine": {"cpu": cpu, "cores": 2, "system": "s"}, "settings": {"repeats": 3}, "load_s": 1}
    results.save({"target": name, "files": files, "device": "CPU", "runs": runs, "peak_bytes": 1} | more)


def test_decode_speed_is_a_multiple_of_another_target_s_as_both_were_measured(asked, capsys):
    shutil.rmtree(paths.BUILD / "bench", ignore_errors=True)
    target, steps = checked(min_decode=2.0, than="tiny-fp32-cpu")
    for name in ("tiny-int4-cpu", "tiny-fp32-cpu"):
        with pytest.raises(CheckFailed, match=f"min_decode: {name} as it is built was not measured") as caught:
            check.check(target, steps)
        assert caught.value.action == f"doit bench:{name}" and not quality.passed(target)
        bench(name, {"tiny-int4-cpu": 30, "tiny-fp32-cpu": 10}[name])
    capsys.readouterr()
    check.check(target, steps)
    assert re.search(r"decode, times that of tiny-fp32-cpu +3.00 +at least 2.00 +met by 1.00", capsys.readouterr().out)
    assert quality.passed(target)
    bench("tiny-fp32-cpu", 20, prompts=(8, 32))
    with pytest.raises(CheckFailed, match="misses 1 of 1 gates: min_decode"):
        check.check(target, steps)
    for other in ({"prompts": (8,)}, {"cpu": "another"}):
        bench("tiny-fp32-cpu", 10, **other)
        with pytest.raises(CheckFailed, match="were not measured alike"):
            check.check(target, steps)


def test_a_graph_without_a_package_has_nothing_to_evaluate(asked, capsys):
    target, steps = checked(max_size_mb=100)
    check.check(target, steps[:-1])
    assert questions(asked) == ["twin"] and "quantize_rtn leaves no model" in capsys.readouterr().out


@pytest.mark.parametrize(("experts", "limit"), [({}, 2), ({"num_experts": 0}, 2), ({"num_experts": 8}, 8)])
def test_a_target_in_16_bits_is_measured_by_what_transformers_loses_in_them(monkeypatch, experts, limit):
    target, asked = read_target(paths.TARGETS / "tiny-int4-cuda.toml"), []
    monkeypatch.setattr(twin.support, "architecture_of", lambda checkpoint: experts)
    monkeypatch.setattr(twin.support, "run", lambda *given: asked.append(given[3]) or {"twin": {"result": None}})
    twin._twin(target, None)
    assert asked == [{"configs": {"twin": experts}, "part": "model", "dtypes": ["fp16"]}]
    right = f"at most {limit} times as much as Transformers loses in fp16"
    assert twin.verdict(target, None, {"prefill": limit - 0.1}) == f"prefill {limit - 0.1:.2f}; {right}"
    for worst in (limit + 0.1, float("inf")):
        with pytest.raises(CheckFailed, match=f"prefill {worst:.2f}; {right}"):
            twin.verdict(target, None, {"prefill": worst})


@pytest.mark.parametrize(
    ("name", "options", "half"),
    [("cast", {"dtype": "bf16"}, "bf16"), ("cast_calibrated", {}, "fp16"), ("cast", {"dtype": "fp32"}, None)],
)
def test_what_a_target_computes_in_is_what_its_last_cast_says(name, options, half):
    target = read_target(paths.TARGETS / "tiny-fp32-cpu.toml")
    declared = declaration(name)
    used = Use(
        declared,
        declared.options(device="cpu", **options) if name == "cast_calibrated" else declared.options(**options),
    )
    assert twin._half(target) is None and twin._half(dataclasses.replace(target, passes=(*target.passes, used))) == half


@pytest.mark.parametrize(("width", "wanted", "block"), [(64, 128, 64), (64, 32, 32), (40, 128, 128), (256, 128, 128)])
def test_blocks_are_as_narrow_as_a_twin(monkeypatch, width, wanted, block):
    target = read_target(paths.TARGETS / "tiny-int4-cpu.toml")
    *before, use, last = target.passes
    wide = dataclasses.replace(use, options=dataclasses.replace(use.options, block_size=wanted))
    target = dataclasses.replace(target, passes=(*before, wide, last))
    monkeypatch.setattr(twin.support, "architecture_of", lambda checkpoint: {"hidden_size": width})
    steps = twin._graph_steps(target, checkpoint_of(target))
    assert [step.name for step in steps] == ["export", "optimize", "quantize_rtn"]
    assert steps[-1].use.options == dataclasses.replace(use.options, block_size=block)


def test_an_architecture_without_proof_is_refused_and_builds_only_as_unproven(tmp_path):
    folder = make_twin("inkling_text", tmp_path / "checkpoint")  # whose sliding windows are its own
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((paths.TARGETS / "tiny" / name).read_bytes())
    builder = Builder(tmp_path / "out")
    name = builder.target("own", folder, passes("export", "optimize", "package_genai"))
    printed = builder.fail(name)
    assert "own.toml: inkling_text is not proven right on cpu" in printed and "doit sweep:inkling_text" in printed
    assert "cpu: WRONG" in printed and "export" not in printed
    file = builder.output / "targets" / "own.toml"
    file.write_text(file.read_text().replace('device = "cpu"', 'device = "cpu"\nunproven = true'))
    builder.run(name)
    assert json.loads((builder.dist("own") / "manifest.json").read_text())["proof"] == "unproven: inkling_text on cpu"


def test_manifests_say_what_proves_them(built):
    proof = json.loads((built.dist("tiny-int4-cpu") / "manifest.json").read_text())["proof"]
    assert re.fullmatch(r"qwen2 on cpu: right \S+, \d{4}-\d\d-\d\d", proof)
