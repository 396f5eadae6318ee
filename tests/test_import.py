"""`doit import`, `doit coverage`, and workflows built: from the command line, as a person does."""

import json
import re
import shlex

import pytest
from builder import Builder, verbs
from hub_server import COMMIT, REPO, serve
from workflows import WORKFLOWS, flat

from onnxmake.build import paths
from onnxmake.build.target import read_target
from onnxmake.errors import OnnxmakeError
from onnxmake.olive import coverage, importing, reading, written

ROUNDED = {
    "input_model": {"type": "HfModel", "model_path": "tiny"},
    "passes": {"m": {"type": "ModelBuilder", "precision": "int4"}},
}
PAGE = paths.ROOT / "docs" / "from-olive.md"
HUB = "Qwen/Qwen2.5-0.5B-Instruct"  # what the page names, and a test has the embedded model for
LONG = {"check", "bench"}  # what measures: other tests run them


@pytest.fixture
def builder(tmp_path):
    """With a folder of targets beside the embedded checkpoint, and a workflow in it."""
    made = Builder(tmp_path / "out")
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "tiny").symlink_to(paths.TARGETS / "tiny")
    made.settings["ONNXMAKE_TARGETS"] = str(folder)
    return made


def put(builder, workflow, name="flow.json"):
    file = builder.output.parent / "targets" / name
    file.write_text(json.dumps(workflow))
    return file


@pytest.mark.parametrize("name", WORKFLOWS)
def test_an_imported_workflow_reads_as_the_workflow(tmp_path, name):
    file, out = tmp_path / "flow.json", tmp_path / "elsewhere" / "flow.toml"
    (tmp_path / "some.txt").write_text("A text.\n")
    file.write_text(json.dumps(WORKFLOWS[name][0]))
    out.parent.mkdir()
    importing.imported(file, out)
    before, after = read_target(file), read_target(out)
    assert after.description == re.sub(r" \d notes?: doit import\.$", "", before.description)
    for part in ("name", "device", "source", "bench", "search"):
        assert getattr(after, part) == getattr(before, part), part
    assert [(u.declaration.name, u.options, u.files) for u in after.passes] == [
        (u.declaration.name, u.options, u.files) for u in before.passes
    ]
    if before.check.text:
        assert (out.parent / after.check.text).resolve() == (tmp_path / before.check.text).resolve()


def test_import_asks_the_hub_for_the_commit(builder, tmp_path):
    file = put(builder, ROUNDED | {"input_model": {"type": "HfModel", "model_path": REPO}})
    out = file.with_suffix(".toml")
    assert "names no commit" in builder.fail("build:flow")
    with serve(paths.TARGETS / "tiny") as hub:
        builder.settings |= {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        printed = builder.run("import", "-c", str(file), "-o", str(out))
    assert "doit build:flow" in printed and f'revision = "{COMMIT}"' in out.read_text()
    assert read_target(out).source.revision == COMMIT


def test_import_writes_nothing_where_something_is_wrong(builder):
    file = put(
        builder, ROUNDED | {"passes": {"m": {"type": "ModelBuilder", "precision": "int4", "int4_accuracy_level": 9}}}
    )
    out = file.with_name("new.toml")
    assert "accuracy_level" in builder.fail("import", "-c", str(file), "-o", str(out)) and not out.exists()
    assert "takes a workflow" in builder.fail("import", "-c", str(file))
    assert "is no file" in builder.fail("import", "-c", "none.json", "-o", str(out))


def test_import_leaves_a_target_that_was_edited(builder):
    file = put(builder, ROUNDED)
    out = file.with_name("mine.toml")
    command = ("import", "-c", str(file), "-o", str(out))
    assert "mine.toml written: doit build:mine" in builder.run(*command)
    assert "mine.toml is so already" in builder.run(*command)
    edited = out.read_text() + "# by hand\n"
    out.write_text(edited)
    printed = builder.fail(*command)
    assert "There is another target mine" in printed and "Give -o another name, or --force" in printed
    assert out.read_text() == edited
    assert "written" in builder.run(*command, "--force") and "by hand" not in out.read_text()


@pytest.mark.parametrize("name", ["y.release.toml", "releases.toml", "-x.toml"])
def test_import_writes_no_name_that_a_target_cannot_have(builder, name):
    file = put(builder, ROUNDED)
    out = file.with_name(name)
    assert "cannot be the name of a target" in builder.fail("import", "-c", str(file), "-o", str(out))
    assert not out.exists()


def test_import_says_how_a_target_is_found_that_lies_elsewhere(builder, tmp_path):
    (tmp_path / "far").mkdir()
    printed = builder.run("import", "-c", str(put(builder, ROUNDED)), "-o", str(tmp_path / "far" / "mine.toml"))
    assert f"written: ONNXMAKE_TARGETS={tmp_path / 'far'} doit build:mine" in printed


def test_a_name_of_a_pass_is_no_toml(tmp_path):
    name = 'c\n[[pass]]\nuse = "cast"\r# \u2028x = 1\0'
    passes = {name: {"type": "OnnxConversion", "target_opset": 17}, "m": {"type": "ModelBuilder"}}
    file = tmp_path / "flow.json"
    file.write_text(
        json.dumps({"input_model": WORKFLOWS["tutorial: ModelBuilder, int4, CPU"][0]["input_model"], "passes": passes})
    )
    text = importing.imported(file, tmp_path / "flow.toml")
    assert '# passes.c [[pass]] use = "cast" # x = 1 : graphs are of opset 21' in text
    assert "cast" not in [use.declaration.name for use in read_target(tmp_path / "flow.toml").passes]


def test_a_text_that_reads_as_something_else_is_not_written():
    with pytest.raises(OnnxmakeError, match="would not say what the workflow says"):
        written.toml("a", [], {"device": "cpu", "unknown": {"a": 1}})
    with pytest.raises(OnnxmakeError, match="would not say what the workflow says"):
        written.toml("a", [], {"device": "cpu", "check": {"a": float("nan")}})
    assert written.toml("a", [], {"device": "\x7f"}) == '# a\ndevice = "\\u007f"\n'


def test_a_workflow_without_a_search_is_told_so(builder):
    put(builder, ROUNDED)
    printed = builder.fail("search:flow")
    assert "flow has nothing to search" in printed and "flow.json -o NAME.toml says why" in printed


def test_notes_are_comments(tmp_path):
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(WORKFLOWS["tutorial: conversion and optimisation, latency, joint search"][0]))
    text = importing.imported(file, tmp_path / "flow.toml")
    assert (
        "# passes.conversion: graphs are of opset 21: before 20 some of their operators have no form; the pass" in text
    )
    assert reading.read(file)[0].endswith("notes: doit import.")


def test_coverage_counts_workflows_by_pass_and_reason(tmp_path, builder):
    folder = tmp_path / "flows" / "deep"
    folder.mkdir(parents=True)
    hub = {"type": "HfModel", "model_path": "owner/model"}
    for name, passes in {
        "right": {"m": {"type": "ModelBuilder", "precision": "fp32"}},
        "vendor": {"c": {"type": "OnnxConversion"}, "q": {"type": "QNNConversion"}, "r": {"type": "QNNConversion"}},
        "wrong": {"c": {"type": "OnnxConversion", "target_opst": 1}},
    }.items():
        systems = {"target": "local_system", "systems": flat("QNNExecutionProvider")} if name == "vendor" else {}
        (folder / f"{name}.json").write_text(json.dumps({"input_model": hub, "passes": passes} | systems))
    (folder / "other.json").write_text('{"name": "no workflow"}')
    (folder / "broken.json").write_text("{")
    out = tmp_path / "counts.json"
    printed = builder.run("coverage", "-d", str(tmp_path / "flows"), "--json", str(out))
    counts = json.loads(out.read_text())
    assert (counts["workflows"], counts["translated"]) == (3, 1) and "1 of 3 workflows translate." in printed
    assert counts["passes"]["OnnxConversion"] == {"workflows": 2, "translated": 0}
    assert counts["passes"]["ModelBuilder"] == {"workflows": 1, "translated": 1}
    assert counts["reasons"]["passes: QNNConversion: it is of Qualcomm's SDK, which is no device here"] == 1
    assert counts["devices"] == {
        "none named": {"workflows": 2, "translated": 1},
        "QNNExecutionProvider": {"workflows": 1, "translated": 0},
    }
    assert counts["files"]["deep/right.json"] == [] and "'target_opst'" in counts["files"]["deep/wrong.json"][0]
    assert "| QNNConversion" in printed and "takes a folder" in builder.fail("coverage", "-d", "none")
    assert coverage.look(folder / "other.json", "other.json") is None


@pytest.mark.slow
def test_a_workflow_builds_once_and_again_from_what_changed(builder):
    file = put(builder, ROUNDED)
    assert {"quantize_rtn", "package_genai"} <= set(verbs(builder.run("build:flow")))
    assert builder.run("build:flow") == "build:flow: up to date\n"
    assert builder.run(f"olive={file}", "build:olive").startswith("build:olive: ")  # the same steps, under another name
    put(
        builder, {"input_model": ROUNDED["input_model"], "passes": {"m": {"type": "ModelBuilder", "precision": "int8"}}}
    )
    assert set(verbs(builder.run("build:flow"))) == {"quantize_rtn", "package_genai"}
    assert (builder.dist("flow") / "genai_config.json").is_file()
    put(builder, ROUNDED | {"passes": {"m": {"type": "ModelBuildr", "precision": "int8"}}})
    assert "Did you mean 'ModelBuilder'?" in builder.fail("build:flow")


def lines() -> list[str]:
    """The command lines of the page."""
    fences = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [line for fence in fences for line in fence.splitlines() if line and not line.startswith("#")]


def test_every_line_of_the_page_is_a_command():
    assert len(lines()) > 10 and all(line.startswith("doit ") for line in lines())


@pytest.mark.slow
def test_the_lines_of_the_page_run(builder, tmp_path):
    flow = put(builder, ROUNDED)
    here = {
        HUB: str(paths.TARGETS / "tiny"),
        "olive_config.json": str(flow),
        "targets/": f"{flow.parent}/",
        "-d .": f"-d {flow.parent}",
        "coverage.json": str(tmp_path / "coverage.json"),
    }
    names = re.compile("|".join(map(re.escape, here)))
    for line in lines():
        words = shlex.split(names.sub(lambda found: here[found[0]], line))[1:]
        if not {word.split(":")[0] for word in words} & LONG:
            builder.run(*words)
    assert (builder.dist("mine") / "model.onnx").is_file() and (builder.dist("olive") / "model.onnx").is_file()


def test_the_page_names_every_pass():
    from onnxmake.olive.mapping import PASSES, REFUSED

    text = PAGE.read_text()
    named = [re.escape(word).replace(r"\.\.\.", r"\w*") for word in re.findall(r"\b\w+(?:\.\.\.)?", text)]
    known = re.compile("|".join(dict.fromkeys(named)))
    assert all(known.fullmatch(name) for name in PASSES), [name for name in PASSES if not known.fullmatch(name)]
    left = [name for name in REFUSED if not known.fullmatch(name)]
    assert {"AppendPrePostProcessingOps", "InsertBeamSearch", "MoEExpertsDistributor", "InputNCHWtoNHWC"} >= {
        name for name in left if not name.startswith(("Mixed", "SNPE"))
    }, left


def test_an_option_of_the_command_line_that_names_no_file(builder):
    printed = builder.run("olive=none.json", "list", code=1)
    assert "olive=none.json is no file." in printed and "Correct olive=FILE." in printed
