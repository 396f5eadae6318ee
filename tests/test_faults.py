"""Every fault class of the harness, every injection: the next plain run ends with a clean build's bytes, and nothing is left."""

import re

import faults
import pytest
from toy import Toy, tree

from onnxmake.build import paths

SAMPLED = {  # one in so many here, all in the harness' own run
    "SIGKILL at every change to cache or output": 12,
    "SIGTERM at every change": 12,
    "Ctrl-C at every change": 12,
    "full disk, of every size": 6,
    "flipped bit in any file of store, manifests, dist": 9,
    "flipped bit in an object, its time set back": 3,
    "any of these files deleted": 3,
    "any of these files cut short, as by a power cut": 3,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return faults.Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("name", faults.CLASSES)
def test_nothing_is_lost(bench, name):
    results = faults.run_class(bench, name, every=SAMPLED.get(name, 1))
    assert results
    assert {label: lost for label, lost in results if lost} == {}


def test_a_build_is_interrupted_at_more_than_forty_points(bench):
    assert bench.points > 40


@pytest.mark.slow
def test_a_graph_of_1000_steps_is_killed_and_ends_as_a_small_one_does(tmp_path):
    many, few = Toy(tmp_path / "many"), Toy(tmp_path / "few")
    for n in range(100):
        for toy in (many, few) if n % 20 == 7 else (many,):
            toy.target(f"t{n}", [("begin", {"width": n + 4}), *[("scale", {"factor": 2})] * 8, ("finish", {})])
    few.run("build")
    faults.start_injected(many, 1800, faults.signal.SIGKILL, "--here", "build").communicate()
    assert not (many.output / "dist" / "t99").exists()
    process = faults.start_injected(many, 10**9, 0, "--here", "build")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed[-2000:]
    for folder in (few.output / "dist").iterdir():
        assert tree(folder) == tree(many.output / "dist" / folder.name)
    assert len(list((many.output / "dist").iterdir())) == 100
    assert many.run("build").count("up to date") == 100
    assert faults.leftovers(many) == []


def test_the_table_in_the_documentation_is_of_these_classes_and_without_losses():
    text = (paths.ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(faults.CLASSES)
    assert all(int(count) > 0 and int(lost) == 0 for _, count, lost in rows)
