"""doit compare: rows, marks, the Pareto front, and a plot in which nothing covers anything."""

import itertools
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_check import bench

from onnxmake.build import compare, labels, paths, quality, reproduced, results, rows
from onnxmake.build.axis import axis, written
from onnxmake.build.pareto import dominates, front
from onnxmake.build.plan import Plan, checkpoint_of, steps_of
from onnxmake.build.plot import Point, svg
from onnxmake.build.rows import Row
from onnxmake.build.target import read_target
from onnxmake.errors import TargetError

CPU = ("tiny-fp32-cpu", "tiny-int4-cpu", "tiny-int8-cpu")
SVG = "{http://www.w3.org/2000/svg}"
SHARES = st.integers(0, 3).map(float)


@given(st.dictionaries(st.text(max_size=3), st.tuples(SHARES, SHARES, SHARES), max_size=9))
def test_the_front_is_who_is_not_dominated(points):
    ahead = front(points)
    assert ahead == [name for name in points if name in ahead]
    for name, own in points.items():
        beaten = [other for other in points if dominates(points[other], own)]
        assert bool(beaten) is (name not in ahead)
        assert name in ahead or any(dominates(points[other], own) for other in ahead)


def test_who_equals_another_or_is_better_in_one_thing_is_on_the_front():
    assert front({"a": (1, 2), "b": (1, 2), "c": (2, 1), "d": (2, 2)}) == ["a", "b", "c"] and front({}) == []


def row(name, device="cpu", **values):
    return Row(name, device, "rtn", values, [])


def test_the_best_of_a_column_is_marked_where_there_are_others():
    table = [row("a", size_mb=2.0, kl=0.1, top1=0.9), row("b", size_mb=1.0, kl=0.2, top1=0.9), row("c", size_mb=3.0)]
    assert compare.best(table, "size_mb") == ["b"] and compare.best(table, "kl") == ["a"]
    assert compare.best(table, "top1") == ["a", "b"] and compare.best(table, "decode") == []
    assert compare.best(table[:1], "size_mb") == []
    heads, lines = compare.cells(table)
    assert heads == ["target", "device", "method", "size MB", "KL", "top-1"]
    assert lines[1] == ["b", "cpu", "rtn", "1.0 *", "0.200", "90.00% *"] and lines[2] == [
        "c",
        "cpu",
        "rtn",
        "3.0",
        "",
        "",
    ]


def test_what_a_second_build_gave_stands_last_where_any_was_made():
    steps = [{"verdict": "byte-equal"}, {"verdict": "graph-equal"}, {"verdict": "byte-equal"}]
    assert reproduced.worst({"steps": steps}) == "graph-equal" and reproduced.worst(None) == ""
    table = [replace(row("a", size_mb=2.0), again=reproduced.worst({"steps": steps})), row("b", size_mb=1.0)]
    heads, lines = compare.cells(table)
    assert heads[-1] == "built again" and [line[-1] for line in lines] == ["graph-equal", ""]


def test_a_front_is_of_one_device_and_of_those_with_every_figure_that_any_has():
    table = [
        row("a", size_mb=2.0, kl=0.1, decode=5.0),
        row("b", size_mb=1.0, kl=0.2, decode=9.0),
        row("slow", size_mb=2.0, kl=0.2, decode=4.0),
        row("unmeasured", size_mb=0.5, kl=0.0),
        row("far", "cuda", size_mb=9.0, kl=0.3),
    ]
    assert compare.fronts(table) == {"cpu": ["a", "b"], "cuda": ["far"]}
    assert compare.fronts([row("a", size_mb=1.0), row("b", size_mb=2.0)]) == {}
    assert [(p.name, p.speed, p.front) for p in compare.points([*table, row("blank", size_mb=1.0)])] == [
        ("a", 5.0, True),
        ("b", 9.0, True),
        ("slow", 4.0, False),
        ("unmeasured", None, False),
        ("far", None, True),
    ]


@given(st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=9), st.sampled_from([0.0, 1e-6]))
def test_an_axis_holds_all_values_in_order_and_has_ticks_on_it(values, floor):
    made = axis(values, floor)
    places = [made.at(v) for v in sorted(values)]
    assert all(0 <= p <= 1 for p in places) and places == sorted(places)
    assert 1 <= len(made.ticks) <= 16 and all(-1e-9 <= made.at(tick) <= 1 + 1e-9 for tick in made.ticks)
    assert len({*made.ticks.values()}) == len(made.ticks)


@given(st.floats(1e-9, 1e6), st.integers(-3, 3))
def test_values_that_are_nearly_equal_share_an_axis_that_can_be_read(value, steps):
    values = [value, value * (1 + steps * 1e-13)]
    made = axis(values)
    assert 1 <= len(made.ticks) <= 16 and all(abs(made.at(v) - 0.5) < 1e-3 for v in values)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.01, "0.01"), (1e-4, "10⁻⁴"), (2e-5, "2·10⁻⁵"), (1500.0, "1500"), (3e6, "3·10⁶")]
)
def test_numbers_are_written_short(value, text):
    assert written(value) == text


PLACES = st.lists(st.tuples(st.floats(0, 500), st.floats(0, 300)), min_size=1, max_size=6)


def meet(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@given(PLACES)
def test_labels_cover_neither_each_other_nor_a_point(places):
    inside = (-20, -20, 600, 330)
    made = labels.placed([(f"tiny-int4-{i}", x, y) for i, (x, y) in enumerate(places)], inside)
    boxes = [labels.box_of(label) for label in made]
    assert not any(meet(a, b) for a, b in itertools.combinations(boxes, 2))
    marks = [(x - labels.MARK, y - labels.MARK, x + labels.MARK, y + labels.MARK) for x, y in places]
    assert not any(meet(box, mark) for box in boxes for mark in marks)
    assert all(inside[0] <= b[0] and b[2] <= inside[2] and inside[1] <= b[1] and b[3] <= inside[3] for b in boxes)


def marks(text):
    root = ElementTree.fromstring(text)
    return {
        c.find(f"{SVG}title").text: c.get("class")
        for c in root.iter(f"{SVG}circle")
        if c.find(f"{SVG}title") is not None
    }


@given(
    st.lists(
        st.tuples(st.floats(0.1, 1e5), st.floats(0, 9), st.none() | st.floats(0, 1e4), st.booleans()),
        max_size=6,
        min_size=1,
    )
)
def test_a_plot_is_xml_with_a_mark_for_each_point(given):
    points = [Point(f"<{i}> & co", *values) for i, values in enumerate(given)]
    text = svg([("a & b", points), ("again", points[:1])])
    found = marks(text)
    assert found.keys() == {p.name for p in points} and text.count("<title>") == len(points) + 1
    for p in points[1:]:
        assert ("front" in found[p.name]) is p.front and ("unknown" in found[p.name]) is (p.speed is None)
    numbers = [float(e.get(k)) for e in ElementTree.fromstring(text).iter() for k in ("x", "y", "cx", "cy") if e.get(k)]
    assert all(-1 <= number <= 900 for number in numbers) and "prefers-color-scheme: dark" in text


def test_a_method_is_said_in_short(delivered):
    names = [*CPU, "tiny-int4-cuda"]
    found = {n: (t := read_target(paths.TARGETS / f"{n}.toml"), results.delivered(t)) for n in names}
    assert {name: rows.method(*both) for name, both in found.items()} == {
        "tiny-fp32-cpu": "fp32",
        "tiny-int4-cpu": "rtn int4 b16 asym lm_head=int8",
        "tiny-int8-cpu": "rtn int8 b32 sym",
        "tiny-int4-cuda": "fp16, rtn int4 b16 asym lm_head=int8",
    }


def planned(*names):
    targets = [read_target(paths.TARGETS / f"{name}.toml") for name in names]
    return Plan({t.name: (t, steps_of(t, checkpoint_of(t))) for t in targets}, {})


def evaluated(name, kl, **settings):
    target = read_target(paths.TARGETS / f"{name}.toml")
    key = quality.evaluation_key(target, results.delivered(target))
    metrics = {"perplexity": 11.0 + kl, "kl": kl, "top1": 1 - kl, "perplexity_rise": kl}
    key = key | {"settings": key["settings"] | settings}
    quality.note(target, "evaluation", key, {"metrics": metrics, "counted": 8176, "of": "tokens"})


def test_what_is_built_is_compared_on_the_screen_and_in_files(delivered, capsys):
    for name, kl in zip(CPU, (0.0, 0.02, 0.0004)):
        evaluated(name, kl)
    bench("tiny-int4-cpu", 30)
    bench("tiny-int8-cpu", 20)
    compare.compare(planned(*CPU, "tiny-int4-cuda", "qwen-int4-cpu"), [])
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if line.startswith("tiny-")}
    assert {*lines} == {*CPU, "tiny-int4-cuda"} and "qwen" not in shown
    assert " 7680.0 * " in lines["tiny-int4-cpu"] and "0.0200" in lines["tiny-int4-cpu"]
    assert "Pareto front (size MB, KL, decode tok/s) on cpu: tiny-int4-cpu, tiny-int8-cpu\n" in shown
    assert "speeds at a prompt of 256 tokens" in shown
    assert "doit bench:tiny-fp32-cpu check:tiny-int4-cuda bench:tiny-int4-cuda" in shown
    folder = paths.BUILD / "compare"
    (model,) = json.loads((folder / "compare.json").read_text())
    values = {r["target"]: r["values"] for r in model["rows"]}
    assert (
        model["model"] == "tiny" and model["best"]["kl"] == ["tiny-fp32-cpu"] and values["tiny-int4-cpu"]["kl"] == 0.02
    )
    assert 31 < values["tiny-fp32-cpu"]["bits"] < 33 and values["tiny-int4-cpu"]["build"] > 0
    assert 30 < values["tiny-int4-cpu"]["peak"] < 5000 and "build MB" in shown
    markdown = (folder / "compare.md").read_text()
    assert markdown.startswith("## tiny\n\n| target") and all(f"| {name}" in markdown for name in lines)
    assert marks((folder / "compare.svg").read_text()).keys() == {*CPU}


def test_figures_that_are_not_comparable_are_left_blank_with_a_hint(delivered):
    evaluated("tiny-fp32-cpu", 0.0)
    evaluated("tiny-int4-cpu", 0.02)
    evaluated("tiny-int8-cpu", 0.01, window=64)  # not as its target asks
    for name, cpu in zip(CPU, ("a CPU", "a CPU", "another")):
        bench(name, 10, cpu=cpu)
    (table,) = compare.grouped(planned(*CPU), CPU).values()
    known = {r.target: r for r in table}
    assert [("kl" in known[n].values, "decode" in known[n].values) for n in CPU] == [(True, True)] * 2 + [
        (False, False)
    ]
    assert known["tiny-int8-cpu"].hints == ["check:tiny-int8-cpu", "bench:tiny-int8-cpu"]
    bench("tiny-fp32-cpu", 10, prompts=(8,))
    (table,) = compare.grouped(planned(*CPU), CPU).values()
    assert not any("decode" in r.values for r in table)


def test_what_is_not_built_cannot_be_compared(delivered, output, built):
    plan = planned("tiny-int4-cpu", "qwen-int4-cpu")
    with pytest.raises(TargetError, match="qwen-int4-cpu is not built"):
        compare.compare(plan, ["qwen-int4-cpu"])
    with pytest.raises(TargetError, match="No target is named 'tiny-int4-cp'"):
        compare.compare(plan, ["tiny-int4-cp"])
    with pytest.raises(TargetError, match="Nothing is built yet"):
        compare.compare(planned("qwen-int4-cpu"), [])
    assert "tiny-int4-cpu" in built.run("compare", "tiny-int4-cpu")
