"""`doit regressions`: what was measured beside what releases tell, judged on the same machine only."""

import copy
import json
from types import SimpleNamespace

import pytest

from onnxmake.build import paths, regressions, results
from onnxmake.build.plan import Plan
from onnxmake.build.regressions import WORSE, Regressions, compared, told
from onnxmake.errors import CheckFailed, StoreError, TargetError

RUN = {"first_token_s": {"p50": 0.1, "p90": 0.1}, "prefill": {"p50": 1000.0, "p90": 900.0}}
RESULT = {
    "target": "x",
    "device": "CPU",
    "files": {"model.onnx": ["0" * 64, 5_000_000]},
    "machine": {"cpu": "a CPU", "cores": 4, "system": "Linux-1"},
    "settings": {"repeats": 5},
    "load_s": 1.0,
    "peak_bytes": 10_000_000,
    "runs": [RUN | {"prompt_tokens": n, "decode": {"p50": 50.0, "p90": 40.0}} for n in (32, 256)],
}


def changed(*path, to):
    """RESULT with one value another."""
    made = copy.deepcopy(RESULT)
    place = made
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return made


def verdicts(then, now, tolerance=0.1) -> dict[tuple[int, str], str]:
    return {(line.prompt, line.figure): line.verdict for line in compared(then, now, tolerance)}


def test_the_same_is_no_regression():
    assert set(verdicts(RESULT, RESULT).values()) == {""} and len(verdicts(RESULT, RESULT)) == 8


@pytest.mark.parametrize(
    ("path", "worse", "bearable", "better", "figure"),
    [
        (("runs", 0, "decode", "p50"), 44.9, 45.1, 99.0, "decode tok/s"),
        (("runs", 0, "prefill", "p50"), 899.0, 901.0, 5000.0, "prefill tok/s"),
        (("runs", 0, "first_token_s", "p50"), 0.1101, 0.1099, 0.01, "first token ms"),
        (("files", "model.onnx"), ["1" * 64, 5_500_001], ["1" * 64, 5_499_999], ["1" * 64, 1], "size MB"),
    ],
)
def test_each_figure_has_a_worse_side_and_the_tolerance_counts(path, worse, bearable, better, figure):
    assert verdicts(RESULT, changed(*path, to=worse))[32, figure] == WORSE
    assert verdicts(RESULT, changed(*path, to=worse), tolerance=0.2)[32, figure] == ""
    for value in (bearable, better):
        assert set(verdicts(RESULT, changed(*path, to=value)).values()) == {""}


@pytest.mark.parametrize(("name", "value"), [("cpu", "another"), ("cores", 2), ("gpu", "a GPU")])
def test_another_machine_is_shown_and_not_judged_but_for_size(name, value):
    now = changed("machine", name, to=value)
    now["runs"][0]["decode"]["p50"] = 1.0
    now["files"]["model.onnx"][1] = 9_000_000
    found = verdicts(RESULT, now)
    assert {v for (_, figure), v in found.items() if figure != "size MB"} == {"another machine"}
    assert found[32, "size MB"] == WORSE


def test_another_version_of_the_system_is_the_same_machine():
    now = changed("machine", "system", to="Linux-2")
    now["runs"][0]["decode"]["p50"] = 1.0
    assert verdicts(RESULT, now)[32, "decode tok/s"] == WORSE


def test_only_what_both_have_is_compared():
    now = changed("runs", 0, "decode", to=None)
    now["runs"][1]["prompt_tokens"] = 512
    assert [*verdicts(RESULT, now)] == [(32, name) for name in ("size MB", "first token ms", "prefill tok/s")]


@pytest.fixture
def measured(output, monkeypatch, tmp_path):
    """A plan of x, as RESULT was measured of it here, and an empty folder of releases."""
    target = SimpleNamespace(name="x", device="cpu")
    paths.DIST.joinpath("x").mkdir(parents=True)
    (paths.DIST / "x" / "manifest.json").write_text(json.dumps({"files": RESULT["files"]}))
    results.save(RESULT)
    (tmp_path / "last").mkdir()
    return Plan({"x": (target, []), "unbuilt": (SimpleNamespace(name="unbuilt", device="cpu"), [])}, {})


def ask(plan, folder, capsys, fail=False, tolerance=10.0) -> str:
    params = {"since": str(folder), "tolerance": tolerance, "fail": fail}
    Regressions.work(SimpleNamespace(), plan, params, [])
    return capsys.readouterr().out


def release(folder, result=RESULT, name="x@1.0.0"):
    (folder / name).mkdir()
    (folder / name / "bench.json").write_text(json.dumps(result))


def test_a_table_in_markdown_and_an_error_where_it_is_asked_for(measured, tmp_path, capsys):
    folder = tmp_path / "last"
    assert "No release tells figures of x." in ask(measured, folder, capsys, fail=True)
    release(folder, changed("runs", 1, "decode", "p50", to=100.0))
    printed = ask(measured, folder, capsys)
    (line,) = (line for line in printed.splitlines() if WORSE in line)
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "x", "256", "decode tok/s", "100.0", "50.0", "-50.0%", WORSE
    ]  # fmt: skip
    assert printed.startswith("| target") and "1 of 8 figures are worse by more than 10 %" in printed
    with pytest.raises(CheckFailed, match=r"x is worse than its last release: decode tok/s 100.0 -> 50.0\."):
        ask(measured, folder, capsys, fail=True)
    assert "0 of 8" in ask(measured, folder, capsys, fail=True, tolerance=60)


def test_a_result_of_another_device_or_of_files_that_are_not_built_says_nothing(measured, tmp_path, capsys):
    release(tmp_path / "last", RESULT | {"device": "CUDA"})
    assert "No release tells figures of x." in ask(measured, tmp_path / "last", capsys)
    (paths.DIST / "x" / "manifest.json").write_text(json.dumps({"files": {"model.onnx": ["2" * 64, 1]}}))
    assert ask(measured, tmp_path / "last", capsys) == "\n0 of 0 figures are worse by more than 10 %.\n"
    with pytest.raises(CheckFailed, match="Nothing is measured as it is built"):
        ask(measured, tmp_path / "last", capsys, fail=True)


def test_a_damaged_result_two_of_one_target_and_no_folder_are_errors(measured, tmp_path, capsys):
    folder = tmp_path / "last"
    release(folder)
    release(folder, name="x@2.0.0")
    with pytest.raises(StoreError, match="is a second one of x"):
        told(folder)
    (folder / "x@1.0.0" / "bench.json").write_text("{}")
    with pytest.raises(StoreError, match="is no result"):
        told(folder)
    with pytest.raises(StoreError, match="is no folder"):
        told(folder / "none")
    with pytest.raises(TargetError, match="Since when"):
        ask(measured, "", capsys)


def test_every_figure_reads_a_result():
    assert [figure(RESULT, RESULT["runs"][0]) for _, _, figure in regressions.FIGURES.values()] == [5, 100, 1000, 50]
