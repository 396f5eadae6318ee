"""`doit new`: what is decided of a model, that it can be read and built, what is refused, and the command as it is typed."""

import json
import shutil
import subprocess
import sys

import onnx_ir as ir
import pytest
from builder import Builder
from graphs import load_pass, operations
from hub_server import COMMIT, REPO, serve
from packers import AWQ_SETTINGS, gptq_settings
from twins import NAMED

from onnxmake.build import decide, draft, origin, paths, support
from onnxmake.build.device import devices
from onnxmake.build.new import New
from onnxmake.build.plan import Plan
from onnxmake.build.traits import traits as traits_of
from onnxmake.errors import CheckpointError, SourceError, TargetError, UnsupportedError
from onnxmake.model import sweep
from onnxmake.model.optimize import optimize

TINY = paths.TARGETS / "tiny"
FILES = {"config.json": 1, "model.safetensors": 2 * 10**9, "tokenizer.json": 1, "tokenizer_config.json": 1}
QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "dtype": "bfloat16"}
BERT = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "max_position_embeddings": 512}
CLIP = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "text_config": {"max_position_embeddings": 77, "hidden_size": 512},
}
CLIP |= {"vision_config": {"hidden_size": 768, "image_size": 224}}
PASSES = {"fp32": [], "int4": ["quantize_kquant"], "int8": ["quantize_rtn"], "fp16": []}


def facts_of(tmp_path, config, device="cpu", part="", files=FILES, **beside):
    """Facts of a checkpoint of this config.json, with other small files of these names and contents."""
    for name, content in {"config": config, **beside}.items():
        file = tmp_path / {"pooling": "1_Pooling/config"}.get(name, name)
        file.parent.mkdir(exist_ok=True)
        file.with_suffix(".json").write_text(json.dumps(content, default=str))
    return traits_of(tmp_path, files, part) | {"model": "someone/model", "device": device}


def decided(facts, precision="", method="", part=""):
    return decide.decide(facts, {"precision": precision, "method": method, "part": part})


def choices(facts, **asked):
    return {name: decision.choice for name, decision in decided(facts, **asked).items()}


def target_of(facts, made):
    return draft.read(paths.TARGETS / "new.toml", draft.toml(facts, {"path": "tiny"}, made, False))


def names(target):
    return [use.declaration.name for use in target.passes]


def refused(facts, **asked):
    with pytest.raises(UnsupportedError) as error:
        decided(facts, **asked)
    return str(error.value)


# -- the table


def test_the_first_row_that_holds_answers():
    rows = [
        {"when": {"a": [1, 2], "b": {"from": 1, "below": 2}}, "choose": "x"},
        {"when": {"c": ""}, "choose": "y"},
        {},
    ]
    assert decide.fitting(rows, {"a": 2, "b": 1.5})["choose"] == "x"
    assert decide.fitting(rows, {"a": 2, "b": 2})["choose"] == "y"  # the end of a range is not in it
    assert decide.fitting(rows, {"a": 2, "c": None})["choose"] == "y"  # what is not known is ""
    assert decide.fitting(rows, {"a": 2, "c": 1}) == {} and decide.fitting(rows[:1], {"a": 3}) is None


def test_every_condition_and_reason_names_a_fact_that_there_is(tmp_path):
    table = decide.table()
    facts = facts_of(tmp_path, QWEN)
    known = facts | dict.fromkeys([*table, *table["asked"]])
    for question, rows in table.items():
        for row in rows if isinstance(rows, list) else ():
            assert {*row.get("when", {})} <= {*known}, row
            texts = [row[key] for key in ("fact", "because", "instead") if key in row]
            assert all(text.replace("{billions:.2f}", "").format_map(known) or question == "bits" for text in texts)
            assert ("choose" in row) + ("take" in row) + (question == "refuse") == 1


@pytest.mark.parametrize("row", [*NAMED, *sweep.ENCODERS])
def test_each_architecture_gets_a_target_that_can_be_read_for_each_device_and_precision(tmp_path, row):
    kind, part = row.split(".")[0], row.partition(".")[2].replace("encoder", "")
    config, seen = sweep.default_config(row), 0
    for device in devices():
        facts = facts_of(tmp_path, config, device, part)
        for precision in ("", *decide.table()["asked"]["precision"]):
            try:
                made = decided(facts, precision=precision, part=part)
            except UnsupportedError as error:
                assert precision in ("bf16", "fp32") or kind == "resnet", error
                continue
            target, seen = target_of(facts, made), seen + 1
            assert support.doubt(target, config) is None
            assert target.device == device and target.check.gates or precision == "bf16"
            assert names(target)[0] == "export" and "optimize" in names(target)
            assert ("package_genai" in names(target)) is (row in NAMED)
            assert ("cast" in "".join(names(target))) is (precision in ("fp16", "bf16") or _casts(made, device))
    assert seen >= (6 if kind == "resnet" else 13)


def _casts(made, device):
    return device != "cpu" and made["precision"].choice != "fp32"


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe", "opt", "mamba", "gemma2"])
def test_what_is_decided_of_a_twin_can_be_done_to_its_graph(twin, name, device):
    folder, graph = twin(name)
    files = FILES | {p.name: p.stat().st_size for p in folder.glob("*")}
    facts = traits_of(folder, files) | {"model": name, "device": device}
    for precision in ("int4", "int8"):
        target = target_of(facts, decided(facts, precision=precision))
        model = ir.load(graph)
        for use in target.passes[1:-1]:
            if use.declaration.name == "optimize":
                optimize(model, device)
            elif use.declaration.name == "cast_calibrated":  # of a text, which no twin reads
                load_pass("cast").rewrite(model, load_pass("cast").Options("fp16"))
            else:
                assert load_pass(use.declaration.name).rewrite(model, use.options) > 0
        found = operations(model)
        assert "MatMulNBits" in found
        assert ("Experts" in found) is (device != "cpu" and facts["mixture"])  # for packaging, standard operators
        assert ("QMoE" in found) is (device == "cpu" and facts["mixture"])
        assert ("GatherBlockQuantized" in found) is bool(facts["block"])


# -- decisions


def test_a_decoder_for_cpus(tmp_path):
    facts = facts_of(tmp_path, QWEN)
    assert facts["billions"] == 1.0 and facts["block"] == 128
    target = target_of(facts, decided(facts))
    assert names(target) == ["export", "optimize", "quantize_kquant", "package_genai"]
    options = target.passes[2].options
    assert (options.bits, options.block_size, options.symmetric, options.lm_head) == (4, 32, False, "same")
    assert target.description == "someone/model, int4 weights, ONNX Runtime on CPU."


@pytest.mark.parametrize(("config", "expected"), [({"hidden_size": 40}, 0), ({"hidden_size": 48}, 16), ({}, 128)])
def test_blocks_divide_what_is_read_in_whole_blocks(tmp_path, config, expected):
    facts = facts_of(tmp_path, QWEN | config)
    assert facts["block"] == expected
    for precision in ("int4", "int8"):
        made = choices(facts, precision=precision)
        assert made["block_size"] == {0: 32, 16: 16}.get(expected, 32 if precision == "int4" else 128)
        assert made.get("embeddings", "same") == ("same" if expected else "keep")
    assert choices(facts_of(tmp_path, QWEN | config), method="gptq")["block_size"] == (expected or 32)


def test_a_small_model_has_a_finer_head(tmp_path):
    small = facts_of(tmp_path, QWEN, files=FILES | {"model.safetensors": 270 * 10**6})
    made = decided(small)
    assert made["lm_head"].choice == "int8" and "0.14 billion" in made["lm_head"].because


@pytest.mark.parametrize("device", ["cuda", "directml"])
def test_devices_that_cast_and_what_their_kernels_do_not_read(tmp_path, device):
    mixture = choices(facts_of(tmp_path, QWEN | {"num_experts": 8, "moe_intermediate_size": 1408}, device))
    assert mixture["cast"] == "fp16" and mixture["experts"] == "keep"
    assert choices(facts_of(tmp_path, QWEN | {"model_type": "gemma3_text"}, device))["cast"] == "calibrated"
    assert choices(facts_of(tmp_path, BERT, device))["precision"] == "fp16"
    assert choices(facts_of(tmp_path, BERT, device), precision="int8")["method"] == "rtn"


def test_sentence_embeddings(tmp_path):
    pooled = {"modules": [{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.Normalize"}]}
    pooled["pooling"] = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    facts = facts_of(tmp_path, BERT | {"architectures": ["BertForMaskedLM"]}, **pooled)
    target = target_of(facts, decided(facts))
    assert names(target) == ["export", "pool", "optimize", "quantize_dynamic", "package_onnx"]
    assert target.passes[0].options.part == "base"
    assert vars(target.passes[1].options) == {"mode": "mean", "normalize": True}
    cls = {"pooling": {"pooling_mode_cls_token": True}, "modules": pooled["modules"][:2]}
    facts = facts_of(tmp_path, BERT, **cls)
    assert vars(target_of(facts, decided(facts)).passes[1].options) == {"mode": "cls", "normalize": False}
    assert "part" not in decided(facts)


def test_windows_and_prompts_are_what_the_model_can_read(tmp_path):
    target = target_of(facts := facts_of(tmp_path, CLIP, part="text"), decided(facts, part="text"))
    assert target.check.window == 77 and target.bench.prompt_tokens == (32,)
    assert target.passes[0].options.part == "text" and "its part text" in target.description
    target = target_of(facts := facts_of(tmp_path, QWEN | {"max_position_embeddings": 256}), decided(facts))
    assert target.check.window == 256 and target.bench.prompt_tokens == (32,)


@pytest.mark.parametrize(
    ("stored", "device", "precision", "expected"),
    [
        (gptq_settings(128), "cpu", "int4", True),
        (gptq_settings(128), "cpu", "int8", False),  # dequantised, and quantised anew
        (gptq_settings(128), "cuda", "int4", False),  # its scales may be bfloat16
        (gptq_settings(20), "cpu", "int4", False),
        (AWQ_SETTINGS | {"group_size": 64}, "cpu", "int4", True),
        ({"quant_method": "fp8"}, "cpu", "int4", False),
        ({"quant_method": "mxfp4"}, "cuda", "fp16", False),
    ],
)
def test_checkpoints_that_are_stored_quantised(tmp_path, stored, device, precision, expected):
    facts = facts_of(tmp_path, QWEN | {"quantization_config": stored}, device)
    made = decided(facts, precision=precision)
    assert made["repack"].choice is expected and stored["quant_method"] in made["repack"].because
    assert ("repack" in names(target_of(facts, made))) is expected
    half = facts_of(tmp_path, QWEN | {"quantization_config": gptq_settings(128), "dtype": "float16"}, "cuda")
    assert choices(half)["repack"] is True and choices(half, method="gptq")["repack"] is False


@pytest.mark.parametrize(
    ("config", "beside", "asked", "fact", "action"),
    [
        (QWEN, {}, {"precision": "bf16"}, "bf16 is not possible on cpu", "--precision fp32"),
        (QWEN, {"device": "directml"}, {"precision": "bf16"}, "bf16 is not possible on directml", "fp16"),
        (QWEN, {"device": "cuda"}, {"precision": "fp32"}, "fp32 is not possible on cuda", "fp16"),
        (QWEN, {}, {"precision": "fp32", "method": "rtn"}, "--method rtn does not go with --precision fp32", "int4"),
        (BERT, {}, {"method": "gptq"}, "--method gptq is not possible of someone/model", "kquant"),
        (QWEN, {}, {"part": "text"}, "has no part text", "--part away"),
        (CLIP, {}, {}, "a CLIPModel, has a part for text and one for pictures", "--part text"),
        (QWEN | {"vision_config": {"x": 1}}, {}, {}, "reads or writes more than text", "text-only checkpoint"),
        (QWEN, {"files": {"pytorch_model.bin": 1}}, {}, "holds no safetensors files", "safetensors"),
        (QWEN, {"files": {"model.safetensors": 1, "tokenizer.model": 1}}, {}, "no tokenizer.json", "save_pretrained"),
        (QWEN, {"pooling": {"pooling_mode_lasttoken": True}}, {}, "with Qwen2ForCausalLM, which generates text", "encoder"),
        (BERT, {"pooling": {"pooling_mode_weightedmean_tokens": True}}, {}, "by pooling_mode_weightedmean_tokens", "pool"),
        (BERT, {"modules": [{"type": "a.Transformer"}, {"type": "a.Dense"}]}, {}, "sentence embeddings by Dense", "pool"),
        (
            {"architectures": ["ResNetForImageClassification"], "model_type": "resnet", "num_channels": 3},
            {},
            {"precision": "int8"},
            "int8 is not possible of someone/model, a ResNet",
            "quantize_static",
        ),
    ],
)  # fmt: skip
def test_what_would_not_build_or_run_is_refused_with_the_reason(tmp_path, config, beside, asked, fact, action):
    said = refused(facts_of(tmp_path, config, **beside), **asked)
    assert fact in said and "Likely cause" in said and action in said


def test_a_config_that_cannot_be_read_or_is_quantised_otherwise_is_an_error(tmp_path):
    with pytest.raises(UnsupportedError, match="quantised by the method 'bitsandbytes'"):
        facts_of(tmp_path, QWEN | {"quantization_config": {"quant_method": "bitsandbytes"}})
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(CheckpointError, match="config.json is not a JSON object"):
        traits_of(tmp_path, FILES)


# -- where the model is


def test_a_folder_is_named_from_the_target_where_they_lie_together(tmp_path):
    for name in ("a", "targets/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    near, below = (origin.origin(str(tmp_path / name)) for name in ("a", "targets/b"))
    assert (
        near.source(tmp_path / "targets") == {"path": "../a"} and near.name == "a" and near.files == {"config.json": 2}
    )
    assert below.source(tmp_path / "targets") == {"path": "b"}
    assert near.source(tmp_path / "x" / "targets") == {"path": str(tmp_path / "a")}


def test_what_is_no_model_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="'./nowhere' is neither a folder nor a name of the hub"):
        origin.origin("./nowhere")
    with pytest.raises(SourceError, match="holds no config.json"):
        origin.origin(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(SourceError) as error:
        origin.origin(str(tmp_path))
    assert "a pipeline of Diffusers" in str(error.value)


# -- the command


@pytest.fixture
def command(tmp_path, monkeypatch, output):
    """Call `doit new` with these options in this process, with a folder of targets of its own; returns its path."""
    folder = tmp_path / "targets"
    folder.mkdir()
    monkeypatch.setenv("ONNXMAKE_TARGETS", str(folder))
    defaults = {option["name"]: option["default"] for option in New.cmd_options}

    def call(*arguments, **options):
        command = New.__new__(New)
        command.work(Plan({}, {}), defaults | options, [*arguments])
        return folder

    return call


def test_a_dry_run_prints_what_is_written(command, capsys):
    folder = command(model=str(TINY), dry_run=True)
    printed = capsys.readouterr()
    assert not [*folder.iterdir()] and "searched for" in printed.err and "decided" not in printed.out
    command(model=str(TINY))
    assert (folder / "tiny-int4-cpu.toml").read_text() == printed.out
    assert "or else" in (said := capsys.readouterr().out) and "doit build:tiny-int4-cpu" in said
    command(model=str(TINY))
    assert "is so already" in capsys.readouterr().out


def test_another_target_is_replaced_by_force_only(command, capsys):
    folder = command(model=str(TINY), name="mine")
    before = (folder / "mine.toml").read_text()
    with pytest.raises(TargetError, match="There is another target mine"):
        command(model=str(TINY), name="mine", precision="int8")
    assert (folder / "mine.toml").read_text() == before
    command(model=str(TINY), name="mine", precision="int8", force=True)
    assert 'use = "quantize_rtn"' in (folder / "mine.toml").read_text()


@pytest.mark.parametrize(
    ("options", "fact", "action"),
    [
        ({"model": ""}, "doit new needs a model", "doit new -m OWNER/NAME"),
        ({"model": "--device"}, "doit new needs a model", "doit new -m OWNER/NAME"),
        ({"device": "cdua"}, "--device cdua is none that there is", "'cuda'"),
        ({"precision": "int3"}, "--precision int3 is none that there is", "There are fp32, fp16, bf16, int8, int4"),
        ({"method": "gtpq"}, "--method gtpq is none that there is", "'gptq'"),
        ({"name": "a/b"}, "--name 'a/b' cannot be the name of a target", "Choose"),
        ({"build": True, "dry_run": True}, "--build and --dry-run do not go together", "Leave one away"),
    ],
)
def test_a_command_line_that_cannot_be_meant(command, options, fact, action):
    with pytest.raises(TargetError) as error:
        command(**{"model": str(TINY)} | options)
    assert fact in str(error.value) and action in str(error.value)
    with pytest.raises(TargetError, match="'more' is no option of doit new"):
        command("more", model=str(TINY))


def test_an_architecture_that_is_not_proven_needs_a_word(command, tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(QWEN | {"model_type": "unheard_of"}))
    with pytest.raises(UnsupportedError) as error:
        command(model=str(tmp_path / "model"))
    assert "unheard_of is not proven right on cpu" in str(error.value) and "--unproven" in str(error.value)
    folder = command(model=str(tmp_path / "model"), unproven=True)
    assert "unproven = true" in (folder / "model-int4-cpu.toml").read_text()
    assert 'path = "../model"' in (folder / "model-int4-cpu.toml").read_text()


@pytest.fixture
def typed(tmp_path):
    """Run `doit new` as it is typed; returns standard output, and standard error where it fails."""
    builder = Builder(tmp_path / "output")
    (tmp_path / "targets").mkdir()
    builder.settings |= {"ONNXMAKE_TARGETS": str(tmp_path / "targets"), "HF_HOME": str(tmp_path / "hub")}

    def run(*words, code=0, **settings):
        done = subprocess.run(
            [sys.executable, "-m", "doit", "new", *words],
            cwd=paths.ROOT,
            env=builder.environ | settings,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout

    run.targets = tmp_path / "targets"
    return run


def test_a_branch_of_the_hub_is_pinned_and_no_weights_are_fetched(typed):
    with serve(TINY) as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        said = typed("-m", REPO, "--device", "directml", "--precision", "int4", "--name", "mine", **online)
        (file,) = typed.targets.iterdir()
        written = file.read_text()
        assert file.name == "mine.toml" and str(file) in said
        assert hub.starts == {"config.json": [0]}
        assert f'repo = "{REPO}"\nrevision = "{COMMIT}"' in written and 'device = "directml"' in written
        assert "no model someone/other" in typed("-m", "someone/other", code=1, **online)
        assert "has no revision dev" in typed("-m", f"{REPO}@dev", code=1, **online)
    offline = typed("-m", REPO, code=1, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert "offline" in offline and "doit new -m FOLDER" in offline


def test_a_repository_without_config_is_told(typed, tmp_path):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "model_index.json").write_text("{}")
    with serve(tmp_path / "repo") as hub:
        said = typed("-m", REPO, code=1, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")
    assert "holds no config.json" in said and "Diffusers" in said


def test_as_it_is_typed(typed):
    assert "doit new needs a model" in typed(code=1)
    assert "Write --device" in typed("-m", str(TINY), "-d", "cuda", "--name", "mine", code=1)
    shown = typed(f"--model={TINY}", "-p", "fp32", "--name", "mine", "--dry-run")
    assert shown.startswith("# tiny, fp32 weights") and not [*typed.targets.iterdir()]


@pytest.mark.slow
def test_build_builds_checks_and_measures(typed):
    said = typed("-m", str(TINY), "-p", "int8", "--name", "auto", "--build")
    assert "build:auto" in said and "right on a twin" in said and "MISSED" not in said and "decode tok/s" in said
    assert "KL divergence" in said and "met by" in said
