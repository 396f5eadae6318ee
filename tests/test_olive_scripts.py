"""Scripts of Olive's workflows: refused unless the user allows them, and then passes of their own whose files others read."""

import json
from pathlib import Path

import pytest
from workflows import COMMIT, MODEL

from onnxmake.build import settings
from onnxmake.build.target import read_target
from onnxmake.errors import TargetError
from onnxmake.olive import importing, translate

ENCODER = {
    "type": "HfModel",
    "model_path": "owner/encoder",
    "task": "text-classification",
    "load_kwargs": {"revision": COMMIT},
}
SCRIPTED = {
    "name": "mine",
    "type": "HuggingfaceContainer",
    "user_script": "user_script.py",
    "load_dataset_config": {"type": "my_rows", "data_dir": "data", "token": None},
    "pre_process_data_config": {"params": {"input_cols": ["a", "b"], "max_length": 64, "max_samples": 9}},
}
STATIC = {"type": "OnnxStaticQuantization", "data_config": "mine"}


def written(folder: Path, workflow: dict) -> Path:
    (folder / "code").mkdir(exist_ok=True)
    for name in ("user_script.py", "code/inner.py"):
        (folder / name).write_text("def my_rows(data_dir):\n    return []\n")
    (folder / "mine.json").write_text(json.dumps(workflow))
    return folder / "mine.json"


def encoder(quantiser: dict, config: dict = SCRIPTED, **more) -> dict:
    passes = {"c": {"type": "OnnxConversion"}, "q": quantiser}
    return {"input_model": ENCODER, "passes": passes, "data_configs": [config], **more}


def allowed(file: Path):
    with settings.given(allow_scripts="true"):
        return read_target(file)


def test_without_permission_each_script_is_named_with_what_allows_it(tmp_path):
    older = {"type": "OnnxQuantization", "user_script": "user_script.py", "dataloader_func": "load", "data_dir": "d"}
    workflow = encoder(STATIC)
    workflow["passes"]["o"] = older
    workflow["evaluator"] = {"metrics": [CUSTOM]}
    with pytest.raises(TargetError) as error:
        read_target(written(tmp_path, workflow))
    for place in ("passes.q", "passes.o.user_script", "passes.o.dataloader_func"):
        assert f"{place}: the script" in error.value.cause and "would run code of its own" in error.value.cause
    assert error.value.action.count("doit allow_scripts=true") == 1 and "data_files" in error.value.action


def test_a_workflow_cannot_allow_its_own(tmp_path):
    with pytest.raises(TargetError, match="unknown key 'allow_scripts'"):
        read_target(written(tmp_path, encoder(STATIC) | {"allow_scripts": True}))


def test_a_data_config_is_a_script_that_the_quantiser_reads(tmp_path):
    target = allowed(written(tmp_path, encoder(STATIC)))
    script, *_, quantiser, _ = target.passes
    assert [use.declaration.name for use in target.passes][:2] == ["run_script", "export"]
    o = script.options
    assert (o.script, o.output, o.model) == ("script/user_script.py", "mine.npz", "owner/encoder")
    assert o.load_dataset == {"type": "my_rows", "data_dir": "data"}
    assert (o.columns, o.tokens, o.padded) == (("a", "b"), 64, True)
    assert (quantiser.options.calibration, quantiser.options.samples) == ("checkpoint/mine.npz", 9)


def test_a_dataloader_func_of_an_older_workflow_is_one_too(tmp_path):
    older = {"type": "OnnxQuantization", "config": {"user_script": "inner.py", "script_dir": "code", "batch_size": 2}}
    older["config"] |= {"dataloader_func": "load", "data_dir": "d", "dataloader_func_kwargs": {"k": 1}}
    script, *_, quantiser, _ = allowed(written(tmp_path, encoder(older))).passes
    assert script.options.dataloader == {"type": "load", "data_dir": "d", "batch_size": 2, "k": 1}
    assert script.options.script == "script/inner.py"
    assert (quantiser.options.calibration, quantiser.options.samples) == ("checkpoint/load.npz", 0)


def test_what_weights_are_calibrated_with_is_packed_and_what_is_trained_on_are_rows(tmp_path):
    workflow = {
        "input_model": MODEL,
        "data_configs": [SCRIPTED],
        "passes": {"g": {"type": "Gptq", "data_config": "mine"}},
    }
    script, _, _, quantiser, _ = allowed(written(tmp_path, workflow)).passes
    assert (script.options.output, script.options.padded) == ("mine.npz", False)
    assert quantiser.options.calibration == "checkpoint/mine.npz"
    workflow["passes"] = {"l": {"type": "LoRA", "train_data_config": "mine"}, "c": {"type": "OnnxConversion"}}
    script, tuned, *_ = allowed(written(tmp_path, workflow)).passes
    assert script.options.output == "mine.jsonl" and tuned.options.data == "checkpoint/mine.jsonl"


def test_a_metrics_data_are_the_checks_text_where_they_are_texts(tmp_path):
    metric = {"name": "a", "type": "accuracy", "data_config": "mine", "sub_types": [{"name": "accuracy_score"}]}
    file = written(tmp_path, encoder(STATIC, evaluator={"metrics": [metric]}))
    target = allowed(file)
    assert target.check.text == "script://mine.txt" and target.check.made == "mine.txt"
    assert [use.options.output for use in target.passes[:2]] == ["mine.npz", "mine.txt"]
    numbers = SCRIPTED | {"pre_process_data_config": {"type": "my_tokens"}}
    file = written(tmp_path, encoder(STATIC, numbers, evaluator={"metrics": [metric]}))
    assert allowed(file).check.text is None
    with settings.given(allow_scripts="true"):
        assert any("what its script makes are numbers" in text for _, text in translate.translate(file).told.notes)


@pytest.mark.parametrize(
    "script, fact",
    [
        ({"user_script": "../user_script.py"}, "lies outside the workflow's folder"),
        ({"user_script": "gone.py"}, "'gone.py' is no file"),
        ({"user_script": None, "script_dir": "code"}, "user_script = None is not the name of a file"),
    ],
)
def test_a_script_lies_in_the_workflows_folder(tmp_path, script, fact):
    with pytest.raises(TargetError, match=fact):
        allowed(written(tmp_path, encoder(STATIC, SCRIPTED | script)))


def test_what_needs_no_script_runs_none_even_with_permission(tmp_path):
    workflow = {"input_model": MODEL, "passes": {"m": {"type": "ModelBuilder", "user_script": "user_script.py"}}}
    with pytest.raises(TargetError, match="is asked of a pass that runs no script"):
        allowed(written(tmp_path, workflow))


def test_what_is_imported_says_so_and_reads_as_the_workflow_does(tmp_path):
    file = written(tmp_path, encoder(STATIC))
    (tmp_path / "targets").mkdir()
    with settings.given(allow_scripts="true"):
        text = importing.imported(file, tmp_path / "targets" / "mine.toml")
    assert "\nallow_scripts = true\n" in text and 'script = "../user_script.py"' in text
    assert 'calibration = "script://mine.npz"' in text
    read = read_target(tmp_path / "targets" / "mine.toml")  # by its own word: it is the user's
    assert read.passes == allowed(file).passes


CUSTOM = {
    "name": "accuracy",
    "type": "custom",
    "sub_types": [
        {"name": "accuracy_custom", "higher_is_better": True, "goal": {"type": "threshold", "value": 0.8}},
        {"name": "wer", "higher_is_better": False, "goal": {"type": "threshold", "value": 2}},
        {"name": "f1", "goal": {"type": "max-degradation", "value": 0.01}},
    ],
    "user_config": {
        "user_script": "user_script.py",
        "evaluate_func": "my_rows",
        "evaluate_func_kwargs": {"tasks": ["a"], "token": None},
        "data_dir": "code",
    },
}


def evaluated(metric: dict) -> dict:
    return encoder(
        {"type": "OnnxDynamicQuantization"}, evaluators={"e": {"metrics": [metric]}}, evaluator="e", data_configs=[]
    )


def test_a_custom_metric_is_a_script_that_a_check_asks_and_its_thresholds_are_limits(tmp_path):
    file = written(tmp_path, evaluated(CUSTOM))
    target = allowed(file)
    (use,) = target.metrics
    o = use.options
    assert (o.script, o.evaluate, o.name, o.model) == (
        "script/user_script.py", "my_rows", "accuracy_custom", "owner/encoder"
    )  # fmt: skip
    assert o.arguments == {"data_dir": "code", "tasks": ["a"]} and "script/code/inner.py" in use.files
    assert target.check.limits == {"min_accuracy_custom": 0.8, "max_wer": 2.0}
    with settings.given(allow_scripts="true"):
        notes = dict(translate.translate(file).told.notes)
        (tmp_path / "targets").mkdir()
        text = importing.imported(file, tmp_path / "targets" / "mine.toml")
    assert "the goal of f1 is relative to the input model" in notes["evaluators.metrics[0]"]
    assert "[[metric]]\nscript" in text and read_target(tmp_path / "targets" / "mine.toml").metrics == target.metrics


def test_without_permission_a_script_that_evaluates_is_noted_and_so_is_each_goal_that_is_no_gate_by_that(tmp_path):
    file = written(tmp_path, evaluated(CUSTOM))
    target = read_target(file)
    assert not target.metrics and not target.check.limits
    notes = [text for item, text in translate.translate(file).told.notes if item == "evaluators.metrics[0]"]
    assert notes[0].startswith("its script is not run: doit check compares") and "doit allow_scripts=true" in notes[0]
    assert notes[1:] == [
        f"the goal of {name} is no gate, as its script is not run" for name in ("accuracy_custom", "wer", "f1")
    ]


def test_without_permission_a_metrics_data_of_a_script_are_not_made(tmp_path):
    metric = {"name": "a", "type": "accuracy", "data_config": "mine", "sub_types": [{"name": "accuracy_score"}]}
    quantiser = {"type": "OnnxDynamicQuantization"}
    file = written(tmp_path, encoder(quantiser, evaluator={"metrics": [metric]}))
    assert read_target(file).check.text is None
    (note,) = [text for _, text in translate.translate(file).told.notes if "user_script.py" in text]
    assert note.endswith("doit check reads the text that comes along instead")


def test_a_metric_of_collected_outputs_is_not_run_and_its_goals_are_no_gates(tmp_path):
    config = {"user_script": "user_script.py", "metric_func": "my_rows"}
    file = written(tmp_path, evaluated(CUSTOM | {"user_config": config}))
    assert not allowed(file).metrics and not allowed(file).check.limits
    with settings.given(allow_scripts="true"):
        notes = [text for _, text in translate.translate(file).told.notes]
    assert any("metric_func is given outputs that Olive collects. Let an evaluate_func run" in text for text in notes)
    assert "the goal of wer is no gate, as its script is not run" in notes


TEMPLATE = {"type": "text_generation_huggingface_pre_process", "text_template": "{q}: {a}", "max_samples": 9}


def test_rows_that_a_template_makes_texts_of_stay_rows_for_whoever_reads_them(tmp_path):
    config = SCRIPTED | {"pre_process_data_config": TEMPLATE}
    metric = {"name": "a", "type": "accuracy", "data_config": "mine", "sub_types": [{"name": "accuracy_score"}]}
    workflow = {"input_model": MODEL, "data_configs": [config], "evaluator": {"metrics": [metric]}}
    workflow["passes"] = {
        "l": {"type": "LoRA", "train_data_config": "mine"},
        "g": {"type": "Gptq", "data_config": "mine"},
    }
    target = allowed(written(tmp_path, workflow))
    script, tuned, *_ = target.passes
    quantiser = next(use for use in target.passes if use.declaration.name == "quantize_gptq")
    assert [use.declaration.name for use in target.passes].count("run_script") == 1
    assert (tuned.options.data, tuned.options.text_template) == ("checkpoint/mine.jsonl", "{q}: {a}")
    assert (quantiser.options.calibration, quantiser.options.text_template) == ("checkpoint/mine.jsonl", "{q}: {a}")
    assert quantiser.options.samples == 9
    assert (target.check.text, target.check.text_template) == ("script://mine.jsonl", "{q}: {a}")


def test_columns_of_rows_that_are_trained_on_are_a_template_and_messages_are_refused(tmp_path):
    workflow = {"input_model": MODEL, "data_configs": [SCRIPTED], "passes": {}}
    workflow["passes"] = {"l": {"type": "LoRA", "train_data_config": "mine"}, "c": {"type": "OnnxConversion"}}
    assert allowed(written(tmp_path, workflow)).passes[1].options.text_template == "{a} {b}"
    workflow["data_configs"] = [SCRIPTED | {"pre_process_data_config": {"chat_template": True}}]
    with pytest.raises(TargetError, match="chat_template formats messages"):
        allowed(written(tmp_path, workflow))
