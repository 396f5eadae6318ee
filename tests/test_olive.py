"""Workflows of Olive as targets: what each form is here, what each wrong one is told, and that all of Olive is spoken for."""

import contextlib
import copy
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workflows import COMMIT, MODEL, WORKFLOWS, a_pass, changed, flat, notes_of, write

from onnxmake.build import like, paths
from onnxmake.build.declaration import declaration, pass_names
from onnxmake.build.gates import Check
from onnxmake.build.target import Bench, read_target, read_targets
from onnxmake.errors import TargetError
from onnxmake.olive import jsonc
from onnxmake.olive.mapping import ALIASES, PASSES, REFUSED
from onnxmake.olive.surgeries import OF_GENAI

LEAVES = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
ODD = st.sampled_from(
    [[], {}, [[]], [{}], {"type": []}, [1, "a"], 1.5, -1, 10**400, float("nan"), float("inf"), 1e-300]
    + ["a\0b", "a" * 5000, "..", "/", "hf://datasets/a/b@c/d", "a\nb = 1", "\u2028", ["a\0b"]]
)
COMMENTS = st.sampled_from(["", " ", '// a " quote\n', "/* two\nlines */", "/**/", "//\n", "/* // */", "\t// */\n"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_a_target(tmp_path, name):
    workflow, device, passes = WORKFLOWS[name]
    target = read_target(write(tmp_path, workflow))
    assert target.device == device and target.source.revision == COMMIT and target.name == "mine"
    expected = [one if isinstance(one, tuple) else (one, {}) for one in passes]
    assert [use.declaration.name for use in target.passes] == [use for use, _ in expected]
    for use, (_, options) in zip(target.passes, expected):
        assert {option: getattr(use.options, option) for option in options} == options, use.declaration.name


def test_evaluators_are_checks_and_bench(tmp_path):
    target = read_target(
        write(tmp_path, WORKFLOWS["static int8 of an encoder with a text, surgeries, another opset"][0])
    )
    assert (target.check.text, target.check.min_top1, target.check.max_size_mb) == ("some.txt", 0.98, 25.0)
    latency = WORKFLOWS["tutorial: conversion and optimisation, latency, joint search"][0]
    assert read_target(write(tmp_path, latency)).bench.repeats == 7


def operated(surgeon, task="fill-mask", **options):
    passes = {
        "c": {"type": "OnnxConversion"},
        "s": {"type": "GraphSurgeries", "surgeries": [{"surgeon": surgeon} | options]},
    }
    return changed(input_model=MODEL | {"task": task}, passes=passes)


def tuned(arguments=None, **options):
    data = {"name": "d", "load_dataset_config": {"data_name": "text", "data_files": "some.txt"}}
    lora = {"type": "LoRA", "train_data_config": "d"} | ({"training_args": arguments} if arguments else {}) | options
    return changed(passes={"l": lora, "m": {"type": "ModelBuilder"}}, data_configs=[data])


def selected(algorithm, ratio, **options):
    one = {"type": "SelectiveMixedPrecision", "algorithm": algorithm, "ratio": ratio} | options
    return changed(passes={"s": one, "g": {"type": "Gptq"}})


NOTED = [
    (changed(passes={"c": {"type": "OnnxConversion", "target_opset": 17}}), "before 20 some of their operators"),
    (
        changed(passes={"c": {"type": "OnnxConversion", "target_opset": 20}, "q": {"type": "OnnxDynamicQuantization"}}),
        "before 21 some of their operators",
    ),
    (
        changed(evaluator={"type": "LMEvaluator", "tasks": ["arc_easy", "mmlu", "size_on_disk"]}),
        "arc_easy, mmlu are not run: doit check compares with the unquantised model, by perplexity",
    ),
    (changed(evaluator={"type": "mine", "user_script": "mine.py"}), "its script is not run: doit check"),
    (
        changed(evaluator={"metrics": [{"name": "c", "type": "custom", "user_config": {"user_script": "e.py"}}]}),
        "its script is not run: doit check",
    ),
    (
        changed(
            systems={
                "s": {
                    "type": "LocalSystem",
                    "accelerators": [{"execution_providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}],
                }
            },
            target="s",
        ),
        "of 2 execution providers, the first",
    ),
    (changed(pass_flows=[["m"], ["m", "m"]]), "of 2, the first: m"),
    (
        changed(systems=None, target=None, execution_providers=["CPUExecutionProvider", "CUDAExecutionProvider"]),
        "of 2 execution providers, the first",
    ),
    (
        changed(systems={"s": {"type": "LocalSystem", "accelerators": ["cpu", "gpu"]}}, target="s"),
        "of 2 accelerators, the first",
    ),
    (a_pass(precision="fp16", int4_algo_config="k_quant"), "precision is no integer"),
    (
        changed(input_model=MODEL | {"io_config": {"input_names": ["input_ids"], "output_names": ["logits"]}}),
        "io_config is not heeded: inputs and outputs have the names of the checkpoint's class",
    ),
    (
        changed(passes={"c": {"type": "OnnxConversion", "input_shapes": [[1, 128]]}}),
        "have the names of the checkpoint's class, and free sizes",
    ),
    (
        changed(passes={"c": {"type": "OnnxConversion"}, "v": {"type": "OnnxOpVersionConversion"}}),
        "without target_opset Olive takes the newest of its onnx; the graph stays of 21",
    ),
    (
        changed(passes={"s": {"type": "SelectiveMixedPrecision", "algorithm": "k_quant_last"}, "g": {"type": "Gptq"}}),
        "the quantiser behind it leaves lm_head",
    ),
    (operated("ReplaceAttentionMaskValue", threshold=-1.0), "whatever threshold says"),
    (tuned(), "Olive trains 3 epochs; here it is 200 steps"),
    (tuned({"num_train_epochs": 1, "max_steps": -1}), "Olive trains 1 epochs; here it is 200 steps"),
    (tuned(torch_dtype="float16"), "float16 needs its loss scaled"),
    (
        changed(
            systems=flat("CUDAExecutionProvider"), passes={"t": {"type": "OrtPerfTuning", "intra_thread_num_list": [1]}}
        ),
        "sessions are tuned on CPUs",
    ),
]


@pytest.mark.parametrize("workflow, note", NOTED, ids=[note for _, note in NOTED])
def test_what_will_differ_is_noted(tmp_path, workflow, note):
    assert any(note in text for text in notes_of(tmp_path, workflow))
    assert "tune_session" not in [use.declaration.name for use in read_target(write(tmp_path, workflow)).passes]


def test_rows_for_tuning_have_a_template(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": "A", "b": "B"}\n')
    data = {
        "name": "d",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_files": "rows.jsonl"},
        "pre_process_data_config": {"text_template": "{a}: {b}", "max_seq_len": 64},
    }
    target = read_target(
        write(tmp_path, changed(passes={"l": {"type": "lora", "train_data_config": "d"}}, data_configs=[data]))
    )
    options = target.passes[0].options
    assert (options.data, options.text_template, options.tokens) == ("data.jsonl", "{a}: {b}", 64)


def test_without_a_search_the_first_alternative_counts(tmp_path):
    workflow = {
        key: value for key, value in WORKFLOWS["alternatives with a search"][0].items() if key != "search_strategy"
    }
    target = read_target(write(tmp_path, workflow))
    assert target.passes[2].options.block_size == 32 and target.search is None


def test_a_local_checkpoint_lies_beside_the_workflow(tmp_path):
    (tmp_path / "mine").mkdir()
    file = write(
        tmp_path,
        {"input_model": {"type": "HfModel", "model_path": "mine"}, "passes": {"m": {"type": "OnnxConversion"}}},
    )
    assert read_target(file).source.path == "mine"


def use_of(tmp_path, workflow, name):
    """The options of the pass; none where it is not there."""
    uses = read_target(write(tmp_path, workflow)).passes
    return next((use.options for use in uses if use.declaration.name == name), None)


ROUNDING = [{}, {"int4_algo_config": "k_quant"}, {"extra_options": {"algo_config": "k_quant_mixed", "block_size": 64}}]


@pytest.mark.parametrize("precision", [{}, {"precision": "fp32"}, {"precision": "fp16"}])
@pytest.mark.parametrize("rounding", ROUNDING)
def test_a_precision_that_is_no_integer_rounds_nothing(tmp_path, precision, rounding):
    rounding |= {"int4_nodes_to_exclude": ["/lm_head/MatMul"], "use_cuda_bf16": True}
    workflow = changed(
        passes={"m": {"type": "ModelBuilder"} | precision | rounding}, systems=flat("CUDAExecutionProvider")
    )
    uses = [use.declaration.name for use in read_target(write(tmp_path, workflow)).passes]
    assert uses == ["export", *(["cast"] if "fp16" in precision.values() else []), "optimize", "package_genai"]


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_beside_another_quantiser_model_builder_brings_none(tmp_path, precision):
    builder = {"type": "ModelBuilder", "precision": precision, "int4_algo_config": "k_quant_mixed"}
    uses = read_target(write(tmp_path, changed(passes={"g": {"type": "Gptq"}, "m": builder}))).passes
    assert [use.declaration.name for use in uses if "quant" in use.declaration.name] == ["quantize_gptq"]
    assert "allocate_bits" not in [use.declaration.name for use in uses]


@pytest.mark.parametrize(
    "options, embeddings",
    [
        ({}, "keep"),
        ({"int4_op_types_to_quantize": ["MatMul", "Gather"]}, "same"),
        ({"extra_options": {"op_types_to_quantize": "MatMul"}}, "keep"),
        ({"int4_tied_embeddings": True}, "same"),
        ({"shared_embeddings": True, "precision": "int8"}, "keep"),
    ],
)
def test_model_builder_rounds_look_ups_where_they_are_named_or_tied(tmp_path, options, embeddings):
    assert use_of(tmp_path, a_pass(**options), "quantize_rtn").embeddings == embeddings


@pytest.mark.parametrize(
    "provider, precision, dtype",
    [("CUDA", "int4", "bf16"), ("CUDA", "int8", "fp16"), ("Dml", "int4", "fp16"), ("CPU", "int4", None)],
)
def test_bfloat16_is_around_int4_on_cuda_alone(tmp_path, provider, precision, dtype):
    workflow = a_pass(use_cuda_bf16=True, precision=precision) | {"systems": flat(f"{provider}ExecutionProvider")}
    cast = use_of(tmp_path, workflow, "cast")
    assert (cast and cast.dtype) == dtype


@pytest.mark.parametrize(
    "loaded, conversion, dtype", [("float16", {}, "fp16"), ("float16", {"torch_dtype": "float32"}, None)]
)
def test_a_checkpoint_is_converted_in_the_type_that_it_is_loaded_in(tmp_path, loaded, conversion, dtype):
    model = MODEL | {"load_kwargs": MODEL["load_kwargs"] | {"torch_dtype": loaded}}
    cast = use_of(tmp_path, changed(input_model=model, passes={"c": {"type": "OnnxConversion"} | conversion}), "cast")
    assert (cast and cast.dtype) == dtype
    assert use_of(tmp_path, changed(input_model=model, passes={"m": {"type": "ModelBuilder"}}), "cast") is None


@pytest.mark.parametrize(
    "arguments, steps",
    [
        (None, (200, "constant", 0, 8)),
        (
            {"max_steps": 20, "warmup_steps": 5},
            (20, "constant", 0, 8),
        ),  # a constant rate has no warm-up in Transformers
        ({"max_steps": 100, "lr_scheduler_type": "cosine"}, (100, "cosine", 3, 8)),
        (
            {
                "max_steps": 100,
                "lr_scheduler_type": "constant_with_warmup",
                "warmup_steps": 7,
                "extra_args": {"per_device_train_batch_size": 2},
            },
            (100, "constant", 7, 2),
        ),
    ],
)
def test_what_training_args_leave_open_is_olive_s(tmp_path, arguments, steps):
    options = use_of(tmp_path, tuned(arguments), "finetune")
    assert (options.max_steps, options.schedule, options.warmup_steps, options.batch_size) == steps
    assert options.tokens == 1024


def test_of_two_goals_the_stricter_is_the_gate(tmp_path):
    def goals(name, kind, *values):
        goal = [{"name": name, "goal": {"type": kind, "value": value}} for value in values]
        return {"name": name, "type": "accuracy", "sub_types": goal}

    metrics = [
        goals("perplexity", "percent-max-degradation", 1, 20),
        goals("accuracy_score", "max-degradation", 0.01, 0.2),
        goals("accuracy_score", "max-degradation", 0.1),
    ]
    check = read_target(write(tmp_path, changed(evaluator={"metrics": metrics}))).check
    assert (check.max_perplexity_rise, check.min_top1) == (0.01, 0.99)


WRONG = [  # what the proof asks: a misspelt pass, a misspelt key, a missing system, a wrong type, a path outside; and more
    (a_pass(type="ModelBuildr"), "passes.m.type = 'ModelBuildr' is no pass of Olive's", "'ModelBuilder'"),
    (a_pass(int4_blok_size=32), "passes.m: unknown key 'int4_blok_size'", "'int4_block_size'"),
    (changed(evaluatr={}), "unknown key 'evaluatr'", "'evaluator'"),
    (changed(engine={"hosst": "x"}), "engine: unknown key 'hosst'", "'host'"),
    (changed(target="gpu_system"), "target = 'gpu_system' is not the name of any in systems", "'local_system'"),
    (changed(evaluator="e"), "evaluator = 'e' is not the name of any in evaluators", "Add evaluators"),
    (changed(host="h", systems=None, target=None), "host = 'h' is not the name of any in systems", "Add systems"),
    (a_pass(int4_is_symmetric="yes"), "passes.m.int4_is_symmetric = 'yes' is not true or false", "true or false"),
    (a_pass(precision=4), "passes.m.precision = 4 is not one of 'fp32'", "Write one of"),
    (changed(passes=[]), "passes = [] is not an object", "Write an object"),
    (
        changed(passes={"m": {"precision": "int4"}}),
        "passes.m.type = None is not the name of a pass",
        "the name of a pass",
    ),
    (changed(systems={"local_system": 1}), "systems.local_system = 1 is not an object", "an object"),
    (changed(input_model=None), "input_model is missing", "Add input_model"),
    (changed(input_model={"type": "HfModl"}), "input_model.type = 'HfModl'", "'HfModel'"),
    (
        changed(input_model=MODEL | {"task": "text-generaton"}),
        "input_model.task = 'text-generaton'",
        "'text-generation'",
    ),
    (
        changed(input_model=MODEL | {"model_path": "../owner/model"}),
        "'../owner/model' is no folder",
        "Correct model_path",
    ),
    (
        changed(input_model={"type": "HfModel", "model_path": "owner/model"}),
        "names no commit of owner/model",
        "doit import -c",
    ),
    (changed(input_model=MODEL | {"load_kwargs": {"revision": "main"}}), "names no commit", "'main' may change"),
    (changed(systems=flat("CudaExecutionProvider")), "'CudaExecutionProvider' is none that Olive has", "Did you mean"),
    (changed(pass_flows=[["n"]]), "pass_flows names 'n', which is not in passes", "Valid: m"),
    (changed(search_strategy={"sampler": "tpe"}), "search_strategy without an evaluator", "Name one of evaluators"),
    (changed(evaluator={"type": "LMEvaluatr"}), "evaluators: type = 'LMEvaluatr' is none", "'LMEvaluator'"),
    (
        changed(
            passes={"f": {"type": "DynamicToFixedShape", "dim_param": ["batch"], "dim_value": [1], "input_name": ["x"]}}
        ),
        "is not one with either dim_param or input_name",
        "Write one",
    ),
    (operated("ReplaceErfWithTanh", zzz=1), "is not a list where ReplaceErfWithTanh has only surgeon", "Write a list"),
    (operated("RenameInputs", old_name=["x"]), "RenameInputs has only surgeon, new_names, old_names", "Write a list"),
    (selected("typo", 0.5), "is not one of 'k_quant_down'", "Write one of"),
    (selected("snr", 1.5), "is not with snr, one with a ratio between 0 and 1", "between 0 and 1"),
    (selected("snr", 0.5, bits="x"), "is not one of 2, 4, 8", "Write one of"),
    (tuned({"per_device_train_batch_size": 0}), "whose per_device_train_batch_size is a whole number, 1", "1 or more"),
    (tuned(train_data_config=None), "passes.l.train_data_config = None is not a string", "a string"),
    (changed(passes={"l": {"type": "LoRA"}}), "is not a pass with train_data_config", "Write a pass"),
    ('{"input_model": 1e999}', "mine.json is not JSON", "Mend that line"),
    ('{"input_model": "\\ud800"}', "mine.json is not JSON", "Mend that line"),
    ('{"passes": {}, "passes": {}}', "'passes' stands twice in one object", "Mend that line"),
    ('{"passes": ', "mine.json is not JSON", "Mend that line"),
    ("[]", "is not a JSON object", "Name the workflow's file"),
]


@pytest.mark.parametrize("workflow, fact, more", WRONG, ids=[fact for _, fact, _ in WRONG])
def test_what_is_wrong_is_one_error_before_anything_runs(tmp_path, workflow, fact, more):
    with pytest.raises(TargetError) as error:
        read_target(write(tmp_path, workflow))
    assert fact in error.value.fact and "mine.json" in error.value.fact and more in str(error.value)


def calibrated(**config):
    data = {"name": "d", "type": "HuggingfaceContainer", "load_dataset_config": config}
    return changed(passes={"g": {"type": "Gptq", "data_config": "d"}}, data_configs=[data])


@pytest.mark.parametrize("path", ["../some.txt", "/etc/hostname", "a/../../some.txt"])
def test_a_file_outside_the_workflow_s_folder_is_not_read(tmp_path, path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "some.txt").write_text("Another's text.")
    with pytest.raises(TargetError, match="lies outside the workflow's folder"):
        read_target(write(tmp_path / "inner", calibrated(data_files=path)))


def test_a_link_out_of_the_workflow_s_folder_is_not_followed(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "other.txt").write_text("Another's text.")
    (tmp_path / "inner" / "link.txt").symlink_to(tmp_path / "other.txt")
    with pytest.raises(TargetError, match="lies outside the workflow's folder"):
        read_target(write(tmp_path / "inner", calibrated(data_files="link.txt")))


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "a/" * 3000])
def test_a_name_that_no_file_can_have(tmp_path, name):
    with pytest.raises(TargetError, match="data_files = '(?s:.*)' is (no file|not the name of a file)"):
        read_target(write(tmp_path, calibrated(data_files=name)))
    with pytest.raises(TargetError, match="is no folder"):
        read_target(write(tmp_path, changed(input_model={"type": "HfModel", "model_path": name})))


def test_a_data_config_that_is_not_there(tmp_path):
    with pytest.raises(TargetError, match="'e' is not in data_configs"):
        read_target(write(tmp_path, calibrated() | {"passes": {"g": {"type": "Gptq", "data_config": "e"}}}))
    with pytest.raises(TargetError, match="'none.txt' is no file"):
        read_target(write(tmp_path, calibrated(data_files="none.txt")))


REFUSALS = [
    (changed(passes={"q": {"type": "QNNConversion"}}), "passes.q: QNNConversion: it is of Qualcomm's SDK", "cpu"),
    (changed(systems=flat("QNNExecutionProvider", "npu")), "systems: QNNExecutionProvider", "CPUExecutionProvider"),
    (changed(systems=flat("CPUExecutionProvider", "npu")), "systems: npu: an NPU is no device here", "cpu"),
    (changed(input_model={"type": "ONNXModel", "model_path": "m.onnx"}), "it starts from an ONNX file", "checkpoint"),
    (changed(passes={}), "passes: there are none", "doit new"),
    (a_pass(int4_nodes_to_exclude=["/lm_head/MatMul"]), "it names nodes of the graph that Olive makes", "keep ="),
    (
        a_pass(int4_op_types_to_quantize=["Gather"]),
        "weights of products are rounded with those of look-ups",
        "Name MatMul",
    ),
    (operated("RemoveQDQ", keep_clip_after_inputs=True), "keeps the ranges of inputs", "Leave"),
    (
        operated("RenameInputs", "text-generation", old_names=["input_ids"], new_names=["x"]),
        "RenameInputs: GenAI knows inputs and outputs of what generates text by name",
        "Leave it out",
    ),
    (
        changed(
            passes={"a": {"type": "OrtPerfTuning"}, "c": {"type": "OnnxConversion"}, "b": {"type": "OrtPerfTuning"}}
        ),
        "two passes tune the session",
        "into one",
    ),
    (tuned({"lr_scheduler_type": "linear", "max_steps": 9}), "there is no schedule linear", "constant"),
    (
        tuned({"lr_scheduler_type": "cosine", "max_steps": 9, "warmup_steps": 10}),
        "of 9 steps 10 would warm up",
        "fewer",
    ),
    (
        tuned() | {"passes": {"l": tuned()["passes"]["l"], "k": tuned()["passes"]["l"], "m": {"type": "ModelBuilder"}}},
        "two passes tune adapters",
        "two finetune passes",
    ),
    (changed(passes={"x": {"type": "ExtractAdapters"}}), "ExtractAdapters is behind nothing that tunes", "Add LoRA"),
    (a_pass(user_script="run.py"), "the script run.py would run code of its own", "a file beside the workflow"),
    (a_pass(int4_block_size=512), "blocks of 512 have no kernel", "128"),
    (
        changed(passes={"s": {"type": "SelectiveMixedPrecision", "algorithm": "snr", "ratio": 0.5}}),
        "by no quantiser",
        "Rtn",
    ),
    (
        changed(passes={"q": {"type": "OnnxStaticQuantization", "activation_type": "QUInt16"}}),
        "passes.q.activation_type: activations have 8 bits",
        "Write uint8",
    ),
    (
        changed(passes={"q": {"type": "OnnxStaticQuantization", "op_types_to_quantize": ["Conv"]}}),
        "some products are rounded, or not, by their names",
        "Name MatMul",
    ),
    (
        changed(
            passes={"q": {"type": "OnnxQuantization", "data_config": "d"}},
            data_configs=[{"name": "d", "user_script": "s.py"}],
        ),
        "the script s.py would run code of its own",
        "doit allow_scripts=true",
    ),
    (
        changed(passes={"m": {"type": "MobiusBuilder", "components_to_export": ["decoder"]}}),
        "half a model is no target",
        "whole",
    ),
    (
        changed(builds={"d": {"components": ["decoder"], "pipeline": ["m"]}}),
        "builds: parts of a model are built apart",
        "one graph",
    ),
    (
        changed(passes={}, evaluator={"type": "LMEvaluator"}),
        "passes: there are none: the workflow evaluates a model",
        "doit new",
    ),
    (
        changed(input_model=MODEL | {"task": "zero-shot-image-classification"}),
        "is of several graphs",
        'part = "vision"',
    ),
    (
        changed(
            passes={"q": [{"type": "Rtn"}, {"type": "Gptq"}]},
            search_strategy={"sampler": "tpe"},
            evaluator={"metrics": []},
        ),
        "its alternatives are passes",
        "a workflow for each",
    ),
]


@pytest.mark.parametrize("workflow, why, closest", REFUSALS, ids=[why for _, why, _ in REFUSALS])
def test_what_has_no_counterpart_is_refused_with_the_closest(tmp_path, workflow, why, closest):
    with pytest.raises(TargetError) as error:
        read_target(write(tmp_path, workflow))
    assert why in str(error.value) and closest in error.value.action


def test_all_that_is_refused_is_named_at_once(tmp_path):
    workflow = changed(
        systems=flat("OpenVINOExecutionProvider"),
        passes={
            "a": {"type": "QuaRot"},
            "b": {"type": "ModelBuilder", "precision": "int4", "exclude_embeds": True, "exclude_lm_head": True},
        },
    )
    with pytest.raises(TargetError, match="4 items have no counterpart") as error:
        read_target(write(tmp_path, workflow))
    for item in ("systems: ", "passes.a: QuaRot", "passes.b.exclude_embeds: ", "passes.b.exclude_lm_head: "):
        assert item in error.value.cause


def test_every_setting_of_the_table_is_an_option_of_the_pass_it_names():
    for olive, entry in PASSES.items():
        method = entry.settings.get("quantize.method")
        for label in entry.settings:
            use, _, option = label.partition(".")
            if option in ("", "method", "may_skip"):
                continue
            use = f"quantize_{method}" if use == "quantize" else use
            if use in pass_names():
                assert option in declaration(use).options.__dataclass_fields__, (olive, label)


def test_every_label_that_a_rule_gives_is_an_option():
    """Read off the source: what only some value of some option gives is in it, too."""
    quantiser = vars(declaration("quantize_gptq").options)["__dataclass_fields__"]
    here = {
        "quantize": {*quantiser, "method", "implied"},
        "check": Check.__dataclass_fields__,
        "bench": Bench.__dataclass_fields__,
    }
    source = "".join(
        (paths.ROOT / "onnxmake" / "olive" / f"{name}.py").read_text()
        for name in ("mapping", "combined", "integers", "border", "training", "measures", "strategy")
    )
    labels = set(re.findall(r'"([a-z_]+)\.([a-z_]+)"', source))
    assert len(labels) > 30
    for use, option in labels - {
        ("next", "lm_head"),
        ("model", "onnx"),
        ("evaluators", "metrics"),
        ("evaluators", "tasks"),
    }:
        if use in here or use in pass_names():
            known = here.get(use) or {*declaration(use).options.__dataclass_fields__, "may_skip"}
            assert option in known, (use, option)
        else:
            assert use in ("finetune", "search"), (use, option)


OLIVE = [
    "AddOliveMetadata",
    "AimetQuantization",
    "AutoAWQQuantizer",
    "AutoClip",
    "CaptureLayerAnnotations",
    "CaptureSplitInfo",
    "ComposeOnnxModels",
    "DoRA",
    "DynamicToFixedShape",
    "EPContextBinaryGenerator",
    "ExtractAdapters",
    "Gptq",
    "GptqModel",
    "GptqQuantizer",
    "GraphSurgeries",
    "IncDynamicQuantization",
    "IncQuantization",
    "IncStaticQuantization",
    "InputNCHWtoNHWC",
    "KQuant",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoftQ",
    "MatMulNBitsToQDQ",
    "MergeAdapterWeights",
    "MixedPrecisionOverrides",
    "MobiusBuilder",
    "ModelBuilder",
    "NVModelOptGraphSurgery",
    "NVModelOptQuantization",
    "OnnxBlockWiseRtnQuantization",
    "OnnxBnb4Quantization",
    "OnnxConversion",
    "OnnxDiscrepancyCheck",
    "OnnxDynamicQuantization",
    "OnnxFloatToFloat16",
    "OnnxHqqQuantization",
    "OnnxIODataTypeConverter",
    "OnnxKQuantQuantization",
    "OnnxOpVersionConversion",
    "OnnxPeepholeOptimizer",
    "OnnxQuantization",
    "OnnxQuantizationPreprocess",
    "OnnxScriptFusion",
    "OnnxStaticQuantization",
    "OpenVINOConversion",
    "OpenVINOEncapsulation",
    "OpenVINOIoUpdate",
    "OpenVINOOptimumConversion",
    "OpenVINOQuantization",
    "OpenVINOQuantizationWithAccuracy",
    "OpenVINOWeightCompression",
    "OptimumConversion",
    "OptimumMerging",
    "OrtMixedPrecision",
    "OrtSessionParamsTuning",
    "OrtTransformersOptimization",
    "QLoRA",
    "QNNContextBinaryGenerator",
    "QNNConversion",
    "QNNModelLibGenerator",
    "QNNPreprocess",
    "QairtEncapsulation",
    "QairtGenAIBuilder",
    "QairtMHA2SHA",
    "QairtPipelinePass",
    "QairtPreparation",
    "QuaRot",
    "QuarkQuantization",
    "Rtn",
    "SDLoRA",
    "SelectiveMixedPrecision",
    "SliceGPT",
    "SparseGPT",
    "SpinQuant",
    "SplitModel",
    "StaticLLM",
    "VitisAIAddMetaData",
    "VitisGenerateModelLLM",
    "VitisGenerateModelSD",
]


def test_every_pass_of_olive_is_spoken_for():
    assert len(OLIVE) == 81 and {*OLIVE} <= {*PASSES, *REFUSED}


def test_no_pass_is_spoken_for_twice():
    assert not PASSES.keys() & REFUSED.keys() and set(ALIASES.values()) <= PASSES.keys()
    assert all(why[-1] not in ".!" and closest.endswith(".") for why, closest in REFUSED.values())


def places(value, path=()):
    """The ways to every value in a workflow."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def test_surgeries_of_genai_s_names_are_those_that_refuse_its_models():
    there = (paths.ROOT / "onnxmake" / "model" / "surgeries").glob("*.py")
    refuse = {file.stem for file in there if "need_no_decoder(" in file.read_text()}
    assert {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in OF_GENAI} == refuse


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_workflow_with_anything_anywhere_is_a_target_or_an_error(tmp_path_factory, data):
    workflow = copy.deepcopy(WORKFLOWS[data.draw(st.sampled_from(sorted(WORKFLOWS)))][0])
    *way, last = data.draw(st.sampled_from([path for path in places(workflow) if path]))
    holder = workflow
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(VALUES | ODD)
    with contextlib.suppress(TargetError):
        read_target(write(tmp_path_factory.mktemp("flow"), workflow))


@given(VALUES, st.lists(COMMENTS, min_size=8))
def test_comments_change_nothing(value, comments):
    dumped = json.dumps(value)
    tokens = [t for t in jsonc.re.split(r'("(?:\\.|[^"\\])*"|[\[\]{},:])', dumped) if t]
    text = "".join(token + comments[i % len(comments)] for i, token in enumerate(tokens))
    stripped = jsonc.without_comments(text)
    assert json.loads(stripped) == value
    assert len(stripped) == len(text) and stripped.count("\n") == text.count("\n")
    assert jsonc.without_comments(dumped) == dumped


def test_a_target_folder_holds_both_forms_and_toml_wins_and_other_json_is_none(tmp_path):
    write(tmp_path, changed(), "a.json")
    write(tmp_path, changed(), "b.json")
    (tmp_path / "b.toml").write_text('like = "a"\ndevice = "cuda"\n')
    (tmp_path / "counts.json").write_text('{"workflows": 3}')
    assert {name: file.suffix for name, file in like.inside(tmp_path).items()} == {"a": ".json", "b": ".toml"}
    found = read_targets([tmp_path], {"olive": tmp_path / "a.json"})
    assert {name: target.device for name, target in found.items()} == {"a": "cpu", "b": "cuda", "olive": "cpu"}
    assert found["olive"].name == "olive" and found["a"].description == "model for cpu, by the Olive workflow a.json."
