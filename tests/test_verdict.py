"""`doit why` and `doit plan` say what a build would do before it does it: each step's verdict, and each leaf that differs.

What they say of a step is what the next build does with it, and saying it writes nothing.
"""

import json
import re

import pytest
from builder import verbs
from toy import PASSES, Toy, again, keep, tree, weights

CHAIN = ("begin", "scale", "finish")
DONE = {"ran": "run", "restored": "restore"}


def chain(factor: int = 2, width: int = 4):
    return [("begin", {"width": width}), ("scale", {"factor": factor}), ("finish", {})]


@pytest.fixture
def toy(tmp_path):
    """A checkout with one target, x."""
    toy = Toy(tmp_path)
    toy.target("x", chain())
    return toy


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout with x built, and a copy of all of it."""
    toy = Toy(tmp_path_factory.mktemp("verdict") / "toy")
    toy.target("x", chain())
    toy.run("build:x")
    return keep(toy)


@pytest.fixture
def built(finished):
    """The same again, whatever the test before did to it: at the same place, as the checkpoint's path names its steps."""
    return again(finished)


def why(toy, name="x") -> dict[str, tuple[str, list[str]]]:
    """Step -> verdict and reasons."""
    told: dict[str, tuple[str, list[str]]] = {}
    for line in toy.run("why", f"build:{name}").splitlines()[1:]:
        found = re.match(r"  (\w+) +(up to date|restore|run|depends)(?:  +(.*))?$", line)
        if found:
            reasons = told.setdefault(found[1], (found[2], []))[1]
            reasons += [found[3]] if found[3] else []
        else:
            assert line.startswith(" " * 31), line
            reasons.append(line.strip())
    return told


def verdicts(toy, name="x") -> list[str]:
    told = why(toy, name)
    assert list(told) == ["source", *CHAIN, "dist"]
    return [verdict for verdict, _ in told.values()]


def edit_config(toy, **changes) -> None:
    file = toy.root / "targets" / "checkpoint" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(toy) -> None:
    (toy.root / "targets" / "checkpoint" / "model.safetensors").write_bytes(weights(b"\1" * 16384))


def elsewhere(toy, *chains) -> None:
    """Have another output folder build targets into the same store."""
    other = Toy(toy.root.parent, toy.cache, toy.output.with_name("elsewhere"))
    for steps in chains:
        other.target("x", steps)
        other.run("build:x")
    other.target("x", chain())


EDITS = {
    "nothing": lambda toy: None,
    "an option of the first pass": lambda toy: toy.target("x", chain(width=5)),
    "an option of the second pass": lambda toy: toy.target("x", chain(factor=3)),
    "a setting": lambda toy: edit_config(toy, size=4),
    "a setting that shapes nothing": lambda toy: edit_config(toy, use_cache=False),
    "the weights": edit_weights,
    "a new file": lambda toy: (toy.root / "targets" / "checkpoint" / "tokenizer.json").write_text("{}"),
    "code of a pass": lambda toy: (toy.root / "passes" / "scale.py").write_text(PASSES["scale"] + "\n# more\n"),
    "code that all passes reach": lambda toy: (toy.root / "onnxmake" / "model" / "canonical.py").write_text(
        "# other\n"
    ),
    "no manifests": lambda toy: [p.unlink() for p in (toy.output / "build" / "steps").iterdir()],
    "no manifest of the checkpoint": lambda toy: [p.unlink() for p in toy.output.glob("build/sources/*/manifest.json")],
    "no dist": lambda toy: toy.run("clean", "build:x"),
    "no entries": lambda toy: [p.unlink() for p in (toy.cache / "store" / "entries").iterdir()],
    "no objects": lambda toy: [p.unlink() for p in (toy.cache / "store" / "objects").glob("*/*")],
    "built elsewhere": lambda toy: (elsewhere(toy, chain(factor=3)), toy.target("x", chain(factor=3))),
    "built elsewhere in part": lambda toy: (
        elsewhere(toy, [("begin", {"width": 5}), ("scale", {})]),
        toy.target("x", chain(width=5)),
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_next_build_does_what_why_says(built, edit):
    EDITS[edit](built)
    told = why(built)
    made = verbs(built.run("build:x"))
    for step in CHAIN:
        verdict = told[step][0]
        done = DONE.get(made.get(step), "up to date")
        assert done == verdict or verdict == "depends", (step, told, made)
        assert verdict != "depends" or "run" in [told[s][0] for s in ("source", *CHAIN[: CHAIN.index(step)])]


def test_nothing_built_yet_is_the_first_build_and_what_follows_depends_on_it(toy):
    assert why(toy) == {
        "source": ("run", ["not seen here yet"]),
        "begin": ("run", ["first build here"]),
        "scale": ("depends", ["on begin"]),
        "finish": ("depends", ["on scale"]),
        "dist": ("run", ["follows finish"]),
    }


def test_what_is_built_is_up_to_date_and_why_it_ran_is_kept(built):
    assert why(built) == {
        "source": ("up to date", []),
        **{step: ("up to date", ["ran last time: first build here"]) for step in CHAIN},
        "dist": ("up to date", []),
    }
    built.target("x", chain(factor=3))
    built.run("build:x")
    assert why(built)["scale"] == ("up to date", ["ran last time: options.factor: 2 -> 3"])
    changed = why(built)["finish"][1]
    assert len(changed) == 1
    assert re.fullmatch(
        r"ran last time: inputs\.model\.json: [0-9a-f]{12} -> [0-9a-f]{12} \(made by scale\)", changed[0]
    )


def test_an_edited_option_is_named_with_its_old_and_new_value(built):
    built.target("x", chain(factor=3))
    told = why(built)
    assert told["begin"][0] == "up to date"
    assert told["scale"] == ("run", ["options.factor: 2 -> 3"])
    assert told["finish"] == ("depends", ["on scale"])
    assert told["dist"] == ("run", ["follows finish"])


def test_each_leaf_that_differs_is_named(built):
    built.target("x", chain(factor=3))
    (built.root / "passes" / "scale.py").write_text(PASSES["scale"] + "\n# more\n")
    verdict, (code, option) = why(built)["scale"]
    assert verdict == "run"
    assert re.fullmatch(r"code\.passes/scale\.py: [0-9a-f]{12} -> [0-9a-f]{12}", code)
    assert option == "options.factor: 2 -> 3"


def test_edited_code_and_locks_are_named_at_every_step_that_they_reach(built):
    (built.root / "onnxmake" / "model" / "canonical.py").write_text("# other\n")
    (built.root / "containers" / "cpu" / "requirements.lock").write_text("# other\n")
    told = why(built)
    assert told["source"][0] == "up to date" and told["scale"] == ("depends", ["on begin"])
    code, lock = told["begin"][1]
    assert re.fullmatch(r"code\.onnxmake/model/canonical\.py: [0-9a-f]{12} -> [0-9a-f]{12}", code)
    assert re.fullmatch(r"environment\.lock: [0-9a-f]{12} -> [0-9a-f]{12}", lock)


def test_a_changed_setting_of_the_checkpoint_is_named_before_anything_runs(built):
    edit_config(built, size=4)
    told = why(built)
    assert told["source"][0] == "run"
    assert [line.split(":")[0] for line in told["source"][1]] == ["architecture.json", "config.json"]
    assert told["begin"][0] == "run"
    assert re.fullmatch(
        r"inputs\.checkpoint/architecture\.json: [0-9a-f]{12} -> [0-9a-f]{12}", "".join(told["begin"][1])
    )
    assert told["scale"] == ("depends", ["on begin"])


def test_changed_weights_are_named_where_they_are_read_and_the_steps_before_are_up_to_date(built):
    edit_weights(built)
    told = why(built)
    assert [told[step][0] for step in ("source", *CHAIN)] == ["run", "up to date", "up to date", "run"]
    for step, file in {"source": "model.safetensors", "finish": "inputs.checkpoint/model.safetensors"}.items():
        assert re.fullmatch(rf"{re.escape(file)}: [0-9a-f]{{12}} -> [0-9a-f]{{12}}", "".join(told[step][1]))


def test_a_file_that_is_new_in_the_checkpoint_was_absent(built):
    (built.root / "targets" / "checkpoint" / "tokenizer.json").write_text("{}")
    told = why(built)
    assert re.fullmatch(r"tokenizer\.json: absent -> [0-9a-f]{12}", "".join(told["source"][1]))
    assert re.fullmatch(r"inputs\.checkpoint/tokenizer\.json: absent -> [0-9a-f]{12}", "".join(told["finish"][1]))


def test_a_restore_upstream_lets_what_follows_be_predicted(built):
    elsewhere(built, chain(factor=3))
    built.target("x", chain(factor=3))
    told = why(built)
    assert told["scale"] == ("restore", ["options.factor: 2 -> 3"])
    verdict, (reason,) = told["finish"]
    assert verdict == "restore"
    assert re.fullmatch(r"inputs\.model\.json: [0-9a-f]{12} -> [0-9a-f]{12} \(made by scale\)", reason)


def test_a_run_behind_a_restore_names_the_file_and_the_step_it_came_from(built):
    elsewhere(built, [("begin", {}), ("scale", {"factor": 3})])
    built.target("x", chain(factor=3))
    told = why(built)
    assert told["scale"][0] == "restore"
    verdict, (reason,) = told["finish"]
    assert verdict == "run"
    assert re.fullmatch(r"inputs\.model\.json: [0-9a-f]{12} -> [0-9a-f]{12} \(made by scale\)", reason)
    assert verbs(built.run("build:x")) == {"scale": "restored", "finish": "ran"}


def test_a_new_output_folder_is_filled_from_the_store(built):
    other = Toy(built.root.parent, built.cache, built.output.with_name("fresh"))
    assert verdicts(other) == ["run", "restore", "restore", "restore", "run"]
    assert verbs(other.run("build:x")) == dict.fromkeys(CHAIN, "restored")
    assert why(other)["begin"] == ("up to date", ["restored last time: first build here"])


def test_a_new_output_folder_on_an_upstream_with_equal_bytes_is_no_other_work(built):
    built.write_pass("same", '(out / "model.json").write_bytes((src / "model.json").read_bytes())')
    built.target("y", [("begin", {}), ("same", {}), ("scale", {}), ("finish", {})])
    told = why(built, "y")
    assert [told[s][0] for s in ("begin", "same", "scale", "finish")] == ["up to date", "run", "depends", "depends"]
    assert verbs(built.run("build:y")) == {"same": "ran", "scale": "restored", "finish": "restored"}


def test_a_result_that_the_store_lost_is_said_to_be_lost(built):
    for path in (built.cache / "store" / "entries").iterdir():
        path.unlink()
    for path in (built.cache / "store" / "objects").glob("*/*"):
        path.unlink()
    assert why(built)["begin"] == ("run", ["its files are not in the store any more"])


def test_a_damaged_dist_is_said_although_its_steps_are_up_to_date(built):
    (built.dist("x") / "model.json").write_text("[]")
    told = why(built)
    assert [told[step][0] for step in CHAIN] == ["up to date"] * 3
    assert told["dist"] == ("run", ["dist holds other files, or none"])


def test_a_checkpoint_that_will_be_refused_is_said_before_anything_runs(built):
    (built.root / "targets" / "checkpoint" / "config.json").write_text("<html>")
    told = why(built)
    assert told["source"][0] == "run" and "it will fail: config.json is not a JSON object" in told["source"][1][0]
    assert told["begin"] == ("depends", ["on source"])


def test_a_file_that_a_step_will_miss_is_said_before_anything_runs(built):
    built.write_pass("picky", '(out / "x").write_text("x")', '("checkpoint/tokenizer.json",)')
    built.target("y", [("picky", {})])
    assert why(built, "y")["picky"] == ("run", ["it will fail: tokenizer.json is missing; picky needs it."])


def test_targets_that_are_broken_or_unknown_are_errors_with_advice(built):
    built.target("broken", [("begn", {})])
    for command in ("why", "plan"):
        assert "Did you mean 'begin'?" in built.run(command, "build:broken", code=1)
        printed = built.run(command, "build:xx", code=1)
        assert "No target is named 'xx'." in printed and "Did you mean 'x'?" in printed
        assert "Traceback" not in printed


def test_names_are_those_of_tasks_or_of_targets_and_none_means_all(built):
    built.target("y", chain(factor=3))
    one = built.run("why", "build:x")
    assert built.run("why", "x") == one
    assert one.splitlines()[0] == "build:x" and "build:y" not in one
    assert built.run("why") == built.run("why", "build") == built.run("why", "build:x", "build:y")
    assert built.run("why").startswith(one)


def rows(printed: str) -> list[list[str]]:
    """The cells of plan's table, its lines that only continue one left out."""
    lines = printed.splitlines()
    edges = [m.span() for m in re.finditer("-+", lines[1])]
    cells = [[line[a : b + 1].strip() for a, b in edges[:-1]] + [line[edges[-1][0] :].strip()] for line in lines[2:]]
    return [row for row in cells[: lines[2:].index("") if "" in lines[2:] else -1] if row[0]]


def test_plan_lists_a_shared_step_once_with_those_that_want_it(toy):
    toy.target("y", chain(factor=3))
    assert [row[:3] for row in rows(toy.run("plan"))] == [
        ["source", "x, y", "run"],
        ["begin", "x, y", "run"],
        ["scale", "x", "depends"],
        ["finish", "x", "depends"],
        ["dist", "x", "run"],
        ["scale", "y", "depends"],
        ["finish", "y", "depends"],
        ["dist", "y", "run"],
    ]
    assert "4 run, 4 depends, 5 never ran here" in toy.run("plan")
    assert [row[1] for row in rows(toy.run("plan", "build:y"))] == ["y"] * 5


def test_plan_tells_last_seconds_and_totals(built):
    built.target("x", chain(factor=3))
    printed = built.run("plan")
    found = {row[0]: row[2:] for row in rows(printed)}
    assert found["begin"][0] == "up to date" and found["begin"][2] == ""
    assert found["scale"][0] == "run" and found["scale"][2] == "options.factor: 2 -> 3"
    assert found["finish"][0] == "depends"
    seconds = {
        p.name.split("-")[0]: json.loads(p.read_text())["record"]["seconds"]
        for p in (built.output / "build" / "steps").iterdir()
    }
    assert {step: found[step][1] for step in CHAIN} == {step: f"{seconds[step]:.2f}" for step in CHAIN}
    took = seconds["scale"] + seconds["finish"]
    assert printed.rstrip().endswith(f"2 run, 1 depends, 2 up to date; steps that run took {took:.1f} s last time"), (
        printed
    )


def test_plan_counts_only_the_last_seconds_of_steps_that_will_run(built):
    assert built.run("plan").rstrip().endswith("\n5 up to date")
    other = Toy(built.root.parent, built.cache, built.output.with_name("fresh"))
    assert other.run("plan").rstrip().endswith("\n2 run, 3 restore")


def written(toy) -> dict:
    """Every file below output and cache with its time; the remembered digests may grow."""
    return {
        p: (p.is_file() and p.read_bytes(), p.lstat().st_mtime_ns)
        for root in (toy.output, toy.cache)
        for p in [root, *root.rglob("*")]
        if not p.name.startswith("digests.sqlite") and (p.is_file() or p != toy.cache)
    }


@pytest.mark.parametrize("edit", ["nothing", "a setting", "no manifests"])
def test_why_and_plan_write_nothing(built, edit):
    EDITS[edit](built)
    before = written(built)
    built.run("why")
    built.run("plan")
    assert written(built) == before


def test_why_and_plan_leave_a_new_folder_empty(toy):
    toy.run("why")
    toy.run("plan")
    assert tree(toy.output) == {}
    assert {p.name for p in toy.cache.iterdir() if not p.is_symlink()} <= {
        "digests.sqlite",
        "digests.sqlite-wal",
        "digests.sqlite-shm",
    }


def test_a_build_goes_on_as_it_would_have_without_asking(toy):
    toy.run("why")
    toy.run("plan")
    assert verbs(toy.run("build:x")) == dict.fromkeys(CHAIN, "ran")
    assert verdicts(toy) == ["up to date"] * 5
    assert toy.run("build:x") == "build:x: up to date\n"
