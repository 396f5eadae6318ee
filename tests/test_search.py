"""doit search: what may be varied, that every point is an ordinary build that is made once, and what is written in the end."""

import dataclasses
import re

import pytest

from onnxmake.build import evaluation, execute, paths, runner, search, show
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.target import read_target
from onnxmake.errors import EnvironmentMissing, Refused, StepFailed, TargetError

TARGET = """# mine
device = "cpu"
[source]
path = "%s"
[[pass]]
use = "export"
[[pass]]
use = "optimize"
[[pass]]
use = "quantize_rtn"
[[pass]]
use = "package_genai"
[check]
max_kl = 0.5
[search]
trials = 6
"""
SYMMETRIC = {"quantize_rtn.symmetric": True}
SPACE = "[search.quantize_rtn]\nblock_size = [32, 64, 128]\nsymmetric = [true, false]\n"


def written(folder, space: str = SPACE, head: str = TARGET):
    file = folder / "mine.toml"
    file.write_text(head % (paths.TARGETS / "tiny") + space)
    return read_target(file)


@pytest.fixture
def made(output, monkeypatch):
    """Options of the variants that were built; building takes no time, and figures follow from the options."""
    built: list[dict] = []

    def measured(target, steps):
        options = target.passes[2].options
        built.append({"block_size": options.block_size, "symmetric": options.symmetric})
        if options.block_size == 64:
            raise Refused("64 does not divide it.", "", "")
        worse = 0.0 if options.symmetric else 0.5
        return {"kl": options.block_size / 100 + worse, "size_mb": 10 - options.block_size / 64, "top1": 0.9}

    monkeypatch.setattr(search, "measured", measured)
    return built


def run(target):
    checkpoint = checkpoint_of(target)
    search.search(target, steps_of(target, checkpoint))


def test_a_small_space_is_tried_point_by_point_and_the_front_becomes_targets(tmp_path, made, capsys):
    target = written(tmp_path)
    run(target)
    printed = capsys.readouterr().out
    assert len(made) == 6 == len({tuple(point.items()) for point in made})
    assert printed.count("refused: 64 does not divide it.") == 2
    assert len(re.findall(r"^\*\s+mine-\w{8} ", printed, re.MULTILINE)) == 2  # symmetric ones, of 32 and 128
    assert printed.count("max_kl") == 3  # all but one miss the gate
    folder = paths.BUILD / "search" / "mine"
    assert len(re.findall(r"^\| \*? +\| mine-", (folder / "search.md").read_text(), re.MULTILINE)) == 4
    assert (folder / "search.svg").read_text().count("<circle") >= 4
    found = [tmp_path / file.name for file in folder.glob("*.toml")]
    for file in found:
        (folder / file.name).replace(file)
    options = {read_target(file).passes[2].options.block_size for file in found}
    assert options == {32, 128}
    first = read_target(found[0])
    assert first == dataclasses.replace(
        search.variant(target, {"quantize_rtn.block_size": first.passes[2].options.block_size, **SYMMETRIC}),
        search=None,
        file=found[0],
        description=first.description,
    )
    assert re.match(r"mine as doit search found it: kl (0.320|1.28), size_mb", first.description)
    run(target)
    assert len(made) == 6  # nothing is left to try


def test_what_was_stopped_goes_on_and_another_space_begins_anew(tmp_path, made, monkeypatch):
    target, real = written(tmp_path), search.measured

    def stopped(*given):
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(search, "measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(target)
    monkeypatch.setattr(search, "measured", real)
    run(target)
    assert len(made) == 6 == len({tuple(point.items()) for point in made})
    run(written(tmp_path, SPACE.replace("64", "16")))
    assert len(made) == 12


def test_ranges_are_sampled_as_often_as_asked(tmp_path, made):
    head = TARGET.replace("trials = 6", 'trials = 4\nobjectives = ["top1"]').replace("quantize_rtn", "quantize_gptq")
    target = written(
        tmp_path,
        "[search.quantize_gptq]\ndamping = { low = 0.001, high = 0.1 }\nsamples = { low = 8, high = 64 }\n",
        head,
    )
    assert "damping = { low = 0.001, high = 0.1 }" in show.toml(target)
    run(target)
    assert len(made) == 4


def test_a_failure_of_the_machinery_stops_it(tmp_path, made, monkeypatch):
    def broken(*given):
        raise StepFailed("The step was killed.", "", "")

    monkeypatch.setattr(search, "measured", broken)
    with pytest.raises(StepFailed):
        run(written(tmp_path))


def test_where_nothing_can_be_built_it_says_so(tmp_path, made):
    with pytest.raises(TargetError, match="none of 2 trials could be built"):
        run(written(tmp_path, SPACE.replace("32, 64, 128", "64")))


def test_without_optuna_it_says_what_to_install(tmp_path, made, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(EnvironmentMissing, match="doit search needs Optuna") as caught:
        run(written(tmp_path))
    assert "[search]" in caught.value.action


def test_an_objective_that_was_not_computed_is_an_error(tmp_path, made):
    with pytest.raises(TargetError, match="cosine under .search. was not computed"):
        run(written(tmp_path, 'objectives = ["cosine"]\n' + SPACE))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("", "there is nothing to vary"),
        ("[search.quantize_rtm]\nbits = [4]\n", "(?s)no pass 'quantize_rtm'.*'quantize_rtn'"),
        ("[search.quantize_rtn]\nblok_size = [32]\n", "(?s)unknown key 'blok_size'.*'block_size'"),
        ("[search.quantize_rtn]\nblock_size = [32, 48]\n", "block_size = 48 is not one of 16, 32"),
        ("[search.quantize_rtn]\nblock_size = 32\n", "neither a list of values nor a range"),
        ("[search.quantize_rtn]\nsymmetric = { low = true, high = false }\n", "no range of numbers"),
        ('objectives = ["speed"]\n' + SPACE, "objective 'speed' is none of perplexity"),
        ("trials = 0\n" + SPACE, "trials must be at least 1"),
    ],
)
def test_a_space_that_cannot_be_meant_is_refused_as_it_is_read(tmp_path, space, message):
    head = TARGET.replace("trials = 6\n", "") if "trials" in space else TARGET
    with pytest.raises(TargetError, match=message):
        written(tmp_path, space, head)


def test_a_trial_is_an_ordinary_build_whose_figures_are_kept(delivered, monkeypatch):
    target = read_target(paths.TARGETS / "tiny-int8-cpu.toml")
    steps, asked = steps_of(target, checkpoint_of(target)), []
    execute.make_source(steps[0].checkpoint)
    monkeypatch.setattr(runner, "run", lambda *given, **named: asked.append("step"))
    found = {"metrics": {"kl": 0.1}, "counted": 10, "of": "tokens"}
    monkeypatch.setattr(evaluation, "evaluate", lambda *given: asked.append("evaluation") or found)
    for _ in range(2):
        metrics = search.measured(target, steps)
        assert metrics["kl"] == 0.1 and 6 < metrics["size_mb"] < 8 and not (paths.DIST / target.name).exists()
    assert asked == ["evaluation"]
