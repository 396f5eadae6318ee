"""[check] in target files, and what its gates say of metrics."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_target import write

from onnxmake.build import gates, paths
from onnxmake.build.gates import Check
from onnxmake.build.target import read_target
from onnxmake.errors import TargetError

METRICS = {"perplexity": 11.6, "perplexity_unquantised": 11.4, "perplexity_rise": 0.0175, "kl": 0.02, "kl_p99": 0.09}


def test_a_check_is_read_and_has_defaults(tmp_path):
    assert read_target(write(tmp_path)).check == Check()
    assert Check().settings == {"window": 512, "stride": 512, "max_tokens": 8192} and Check().gates == {}
    text = '[check]\ntext = "own.txt"\nwindow = 64\nstride = 16\nmax_tokens = 640\nmax_kl = 1\nmin_top1 = 0.9'
    check = read_target(write(tmp_path, check=text)).check
    assert check.settings == {"window": 64, "stride": 16, "max_tokens": 640}
    assert check.gates == {"max_kl": 1.0, "min_top1": 0.9} and check.text == "own.txt"


@pytest.mark.parametrize(
    ("line", "said", "advice"),
    [
        ("max_perplexity = 3", "unknown key 'max_perplexity'", "'max_perplexity_rise'"),
        ("min_top_1 = 0.9", "unknown key 'min_top_1'", "'min_top1'"),
        ("max_kl = '1'", "max_kl = '1' is not a number", "Write a number"),
        ("max_kl = -0.1", "max_kl must not be negative", "Change"),
        ("max_kl = nan", "max_kl must not be negative", "Change"),
        ("min_top1 = 92", "min_top1 is a fraction, at most 1", "Change"),
        ("window = 1", "window must be at least 2", "Change"),
        ("stride = 513", "stride from 1 to window", "Change"),
        ("stride = 0", "stride from 1 to window", "Change"),
        ("max_tokens = 100", "max_tokens = 100 is less than one window of 512", "Change"),
        ("min_decode = 1", 'min_decode and than = "target" go together', "Change"),
        ('than = "other"', 'min_decode and than = "target" go together', "Change"),
        ('min_decode = 1\nthan = "othr"', "than = 'othr' is not the name of another target", "'other'"),
        ('min_decode = 1\nthan = "mine"', "than = 'mine' is not the name of another target", "Valid: other"),
    ],
)
def test_a_wrong_check_is_told_file_key_and_what_to_do(tmp_path, line, said, advice):
    write(tmp_path, "other.toml")
    with pytest.raises(TargetError) as caught:
        read_target(write(tmp_path, check=f"[check]\n{line}"))
    assert "mine.toml" in caught.value.fact and "[check]" in caught.value.fact
    assert said in caught.value.fact and advice in caught.value.action


def test_a_target_like_another_has_its_gates_and_its_text_where_it_is(tmp_path):
    (tmp_path / "more").mkdir()
    original = write(tmp_path, "base.toml", check='[check]\ntext = "own.txt"\nmax_kl = 0.1')
    for folder, text in ((tmp_path, "own.txt"), (tmp_path / "more", str(tmp_path / "own.txt"))):
        (folder / "like.toml").write_text('# Another.\nlike = "base"\ndevice = "cuda"')
        check = read_target(folder / "like.toml", {"base": original}).check
        assert check.gates == {"max_kl": 0.1} and check.text == text
    (tmp_path / "like.toml").write_text('# Another.\nlike = "base"\n[check]\nmax_kl_p99 = 1')
    assert read_target(tmp_path / "like.toml").check == Check(max_kl_p99=1.0)


@given(st.sampled_from(["max_kl", "max_size_mb", "min_top1"]), st.floats(0, 1), st.floats(0, 1))
def test_a_gate_is_met_up_to_its_limit_and_missed_beyond(gate, limit, value):
    check = Check(**{gate: limit})
    wrong = value > limit if gate.startswith("max_") else value < limit
    assert gates.missed(check, {gates.metric_of(gate): value}) == [gate] * wrong
    assert gates.missed(check, {gates.metric_of(gate): limit}) == []
    assert gates.missed(check, {}) == [] and gates.absent(check, {}) == [gate]


def test_the_table_says_by_how_much():
    check = Check(max_perplexity_rise=0.02, max_kl=0.015, min_cosine=0.9, min_decode=2.0, than="other")
    lines = gates.table(check, METRICS | {"decode": 2.5}).splitlines()
    said = {name: cells for name, *cells in (re.split(r"\s{2,}", line) for line in lines[2:])}
    assert said["perplexity"] == ["11.600"]
    assert said["perplexity rise"] == ["1.75%", "at most 2.00%", "met by 0.25%"]
    assert said["KL divergence, mean nats"] == ["0.0200", "at most 0.0150", "MISSED by 0.00500"]
    assert said["KL divergence, 99th percentile"] == ["0.0900"]
    assert said["cosine, least"] == ["not computed", "at least 0.900000"]
    assert said["decode, times that of other"] == ["2.50", "at least 2.00", "met by 0.50"]
    assert "size MB" not in said and "top-1 agreement" not in said


def test_every_gate_limits_a_metric_of_the_table():
    names = [name for name in vars(Check()) if name[:4] in ("max_", "min_") and name != "max_tokens"]
    assert len(names) == 7 and {gates.metric_of(name) for name in names} <= {*gates.METRICS}


@pytest.mark.parametrize("file", sorted(paths.TARGETS.glob("tiny-*-*.toml")), ids=lambda file: file.stem)
def test_the_embedded_targets_have_gates(file):
    assert {"max_perplexity_rise", "max_kl", "min_top1", "max_size_mb"} <= {*read_target(file).check.gates}
