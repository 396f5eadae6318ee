"""The history of what was measured: what is kept, of whom, and what a damaged line costs."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmake.build import measurements, paths
from onnxmake.build.measurements import Measured, past

FILES = {"model.onnx": ["ab" * 32, 1000], "model.onnx.data": ["cd" * 32, 500]}
MACHINE = {"cpu": "a CPU", "cores": 2, "system": "s"}
KEY = {"files": FILES, "text": "t", "settings": {"window": 512}, "code": "c"}


def result(name="a", files=FILES, decode=30.0, **more):
    speeds = {"first_token_s": {"p50": 0.1}, "prefill": {"p50": 99.0}, "decode": decode and {"p50": decode}}
    runs = [{"prompt_tokens": prompt} | speeds for prompt in (32, 256)]
    return {"target": name, "files": files, "machine": MACHINE, "runs": runs, "load_s": 0.5, "peak_bytes": 7} | more


def test_benches_and_evaluations_are_kept_in_order_and_a_known_one_is_not_kept_twice(output):
    assert past("a") == []
    measurements.note_bench(result())
    measurements.note_evaluation("a", KEY, {"metrics": {"kl": 0.02}})
    measurements.note_bench(result())
    measurements.note_bench(result(decode=31.0))
    measurements.note_bench(result("other", decode=None))
    first, second, third = past("a")
    assert (first.files, first.size, first.machine, first.peak_bytes) == (
        measurements.digest(FILES),
        1500,
        MACHINE,
        7,
    )
    assert first.at(256) == {"prompt_tokens": 256, "first_token_s": 0.1, "prefill": 99.0, "decode": 30.0}
    assert first.at(1) == {} and (first.metrics, first.on) == ({}, {})
    assert second.metrics == {"kl": 0.02} and second.on == {"text": "t", "settings": {"window": 512}}
    assert second.runs == [] and second.files == first.files and third.at(32)["decode"] == 31.0
    assert first.when <= second.when <= third.when and first.when.endswith("Z")
    assert past("other")[0].at(32)["decode"] is None


def test_the_oldest_lines_go(output, monkeypatch):
    monkeypatch.setattr(measurements, "LIMIT", 3)
    for decode in range(1, 6):
        measurements.note_bench(result(decode=float(decode)))
    assert [one.at(32)["decode"] for one in past("a")] == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"files": "x"}',
        '{"files": "x", "size": "large"}',
        '{"files": "x", "size": NaN}',
        '{"files": 3, "size": 1}',
        '{"files": "x", "size": 1, "runs": [{"prompt_tokens": 3}]}',
        '{"files": "x", "size": 1, "runs": 3}',
        '{"files": "x", "size": 1, "metrics": {"kl": "low"}}',
        '{"files": "x", "size": 1, "machine": {"cpu": "c"}}',
        '{"files": "x", "size": 1, "of another version": 1}',
    ],
)
def test_a_damaged_line_is_left_out(output, line):
    measurements.note_bench(result())
    file = paths.BUILD / "history" / "a.jsonl"
    file.write_text(f"{line}\n{file.read_text()}\xff\n", "latin-1")
    (kept,) = past("a")
    measurements.note_bench(result(decode=31.0))
    assert past("a")[0] == kept and len(past("a")) == 2 and len(file.read_text().splitlines()) == 2


NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.integers(0), st.text(max_size=5)), max_size=5))
def test_what_is_written_is_read_again(output, values):
    file = paths.BUILD / "history" / "b.jsonl"
    file.unlink(missing_ok=True)
    made = [Measured("f", size, load_s=load, on={"text": text}) for load, size, text in values]
    for one in made:
        measurements._note("b", one)
    assert [replace(one, when="") for one in past("b")] == [one for i, one in enumerate(made) if one not in made[:i]]
    assert not file.exists() or all(json.loads(line) for line in file.read_text().split("\n")[:-1])
