"""Models that generate no text: captured, lowered and run against Transformers, whole, without a head, or a tower of them."""

import functools
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from graphs import bind, load_pass, operations
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
from safetensors.numpy import load_file, save_file
from test_devices import passed
from test_twins import as_rms_norm, change, forget, tensors_of

from onnxmake.build import paths
from onnxmake.build import twin as compared
from onnxmake.errors import CheckpointError, PassError, UnsupportedError
from onnxmake.model import architecture, canonical, parity, sweep
from onnxmake.model.capture import capture, layers
from onnxmake.model.direct import build
from onnxmake.model.graph import attribute, nodes
from onnxmake.model.letters import write_tokenizer
from onnxmake.model.optimize import optimize
from onnxmake.model.running import CALLS, encoded
from onnxmake.model.session import open_session
from onnxmake.model.twin import twin

TOLERANCE, HALF = 1e-4, ("bert.encoder", "modernbert.encoder", "mpnet.encoder", "vit.encoder")
ROWS = [*sweep.ENCODERS]
TEXT = {"input_ids", "attention_mask"}
ONE = dict(num_hidden_layers=1)
V3 = dict(position_buckets=256, share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False)
# of a row's configuration, before its twin is made: smaller than the default, or as known checkpoints have it
SETTINGS = {
    **dict.fromkeys(
        [f"{kind}.encoder" for kind in ["beit", "camembert", "deberta", "deit", "dinov2", "electra", "ernie"]], ONE
    ),
    **dict.fromkeys([f"{kind}.encoder" for kind in ["mpnet", "whisper", "xlm-roberta"]], ONE),
    "convnext.encoder": dict(num_stages=2, depths=[1, 1], hidden_sizes=[16, 32], image_size=32),
    "deberta-v2.encoder": V3 | ONE | dict(type_vocab_size=0, pos_att_type="p2c|c2p"),
    "distilbert.encoder": dict(n_layers=1),
    "modernbert.encoder": dict(num_hidden_layers=2),
    "resnet.encoder": dict(embedding_size=16, depths=[1, 1], hidden_sizes=[32, 64]),
    "roberta.encoder": ONE | dict(type_vocab_size=1),
    "swin.encoder": dict(
        image_size=64, embed_dim=16, depths=[2, 1], num_heads=[2, 4]
    ),  # 16 x 16 patches: windows shift
}
# of no row: name -> row, class, and settings of its twin
MORE = {
    "bert.masked": ("bert.encoder", "BertForMaskedLM", ONE),
    "bert.tokens": ("bert.encoder", "BertForTokenClassification", ONE),
    "bert.choices": ("bert.encoder", "BertForMultipleChoice", ONE),
    "bert.deep": ("bert.encoder", "BertForSequenceClassification", dict(num_hidden_layers=6)),
    "distilbert.deep": ("distilbert.encoder", "DistilBertModel", dict(n_layers=6)),
}
OUTPUTS = {  # of heads; of what is in neither: a model's, or a tower's
    "roberta.encoder": {"start_logits", "end_logits"},
    **dict.fromkeys(["modernbert.encoder", "whisper.encoder", "distilbert.deep"], {"last_hidden_state"}),
}
POOLED, DEEP = {"last_hidden_state", "pooler_output"}, ("bert.deep", "distilbert.deep")


@dataclass(frozen=True)
class Made:
    """A twin's checkpoint, config.json's content, its captured graph, and what Transformers computes with it."""

    folder: Path
    config: dict
    graph: Path
    expected: dict[str, np.ndarray]

    def inputs(self, call: int) -> dict[str, np.ndarray]:
        start = f"{call}.in."
        return {name.removeprefix(start): value for name, value in self.expected.items() if name.startswith(start)}


def config_of(name: str) -> dict:
    row, kind, after = MORE.get(name, (name, "", {}))
    config = twin(sweep.default_config(row, **SETTINGS.get(row, {}))) | after
    return config | {"architectures": [kind]} if kind else config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> the twin, each made once."""

    @functools.cache
    def make(name: str) -> Made:
        folder = tmp_path_factory.mktemp("encoders") / name
        sweep.make(config_of(name), folder, sweep.ENCODERS.get(name, ("", "model"))[1], ["fp16"] * (name in HALF))
        config = json.loads((folder / "config.json").read_text())
        return Made(folder, config, folder / "graph.onnx", dict(np.load(folder / "expected.npz")))

    return make


def heads(name: str) -> set[str]:
    """Names of the outputs."""
    kind = MORE.get(name, ("", sweep.ENCODERS.get(name, [""])[0]))[1]
    return OUTPUTS.get(name, {"logits"} if "For" in kind else POOLED)


def transformers_model(twin: Made, kind: str = "") -> transformers.PreTrainedModel:
    found = getattr(transformers, kind or twin.config["architectures"][0])
    return found.from_pretrained(twin.folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def computed(function, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = function(**{name: torch.from_numpy(value) for name, value in given.items()})
    return {name: value.numpy() for name, value in out.items() if isinstance(value, torch.Tensor)}


def ran(file: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = open_session(file)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {i.name: given[i.name] for i in session.get_inputs()})))


def error(actual: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    assert actual.keys() == wanted.keys() and all(actual[n].shape == wanted[n].shape for n in wanted)
    return max(float(np.abs(actual[n] - wanted[n]).max() / np.abs(wanted[n]).max()) for n in wanted)


@pytest.mark.parametrize("name", [*ROWS, *MORE])
def test_a_twin_computes_what_transformers_computes(made, tmp_path, name):
    """One input, and a batch of two that ends with padding if it is text: every output by its name."""
    it = made(name)
    outputs = {f"{call}.out.{output}" for call in (0, 1) for output in heads(name)}
    assert {n for n in it.expected if ".out." in n} == outputs
    for device in ("portable", "cpu"):
        file = build(it.graph, it.folder, tmp_path / device, device)
        errors = parity.compare(file, it.expected)
        assert errors.keys() == {f"{output} {call}" for call in CALLS for output in heads(name)}
        assert max(errors.values()) < TOLERANCE, f"{device}: {errors}"
    given = {i.name: list(i.shape) for i in ir.load(file).graph.inputs}
    assert given.keys() == it.inputs(0).keys()
    if "input_ids" in given:
        assert given.keys() - {"token_type_ids"} == TEXT
        choices = ["choices"] * (name == "bert.choices")
        assert all(shape == ["batch", *choices, "sequence"] for shape in given.values())
    else:
        ((_, (batch, *sizes)),) = given.items()
        assert batch == "batch"
        assert all(isinstance(size, int) for size in sizes) or (name, sizes) == (
            "resnet.encoder",
            [3, "height", "width"],
        )


def test_prompts_are_longer_than_what_a_local_layer_of_modernbert_sees(made):
    it = made("modernbert.encoder")
    assert {*it.config["layer_types"]} == {"full_attention", "sliding_attention"}
    assert it.config["local_attention"] < it.inputs(1)["input_ids"].shape[1] < it.inputs(0)["input_ids"].shape[1]


def test_only_what_has_several_types_of_tokens_asks_for_them(made):
    assert "token_type_ids" in made("bert.encoder").inputs(0)
    assert "token_type_ids" not in made("roberta.encoder").inputs(0)


@pytest.mark.parametrize("row", ROWS)
def test_a_config_with_its_class_finds_the_row_that_proves_it(row):
    config = config_of(row)
    assert not architecture.is_decoder(config)
    assert architecture.row(config, sweep.ENCODERS[row][1]) == row == architecture.row(config, row.split(".")[1])


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("bert.encoder", ("BertModel", "model")),
        ("clip.text", ("CLIPModel", "text")),
        ("squeezebert.encoder", ("SqueezeBertModel", "model")),
        ("siglip2.vision", ("Siglip2Model", "vision")),
    ],
)
def test_a_row_says_which_class_is_exported_and_what_of_it(row, found):
    assert sweep.class_and_part(row) == found


def test_the_base_of_a_classifier_is_the_bare_model(made, tmp_path):
    it = made("bert.deep")
    graph = capture(it.config, tensors_of(it.folder), "base")
    canonical.save(graph, tmp_path / "base.onnx")
    parts = {part for node in nodes(graph.graph, "Weight") for part in attribute(node, "parts")}
    assert {p for p in tensors_of(it.folder) if p not in parts} == {"classifier.weight", "classifier.bias"}
    file = build(tmp_path / "base.onnx", it.folder, tmp_path / "cpu", "cpu")
    wanted = computed(transformers_model(it, "BertModel"), it.inputs(1))
    assert wanted.keys() == POOLED and error(ran(file, it.inputs(1)), wanted) < TOLERANCE


def feature(model, kind: str, **given):
    """What a tower's projected vector is, step by step."""
    tower, projection = (getattr(model, f"{kind}_{part}", torch.nn.Identity()) for part in ("model", "projection"))
    if kind == "vision":
        projection = getattr(model, "visual_projection", torch.nn.Identity())
    return {"pooler_output": projection(tower(**given).pooler_output)}


@pytest.mark.parametrize("row", ["clip.text", "clip.vision", "siglip.text", "siglip.vision"])
def test_towers_give_the_vector_that_texts_and_pictures_share(made, row):
    it = made(row)
    wanted = computed(functools.partial(feature, transformers_model(it), row.split(".")[1]), it.inputs(1))
    assert error({"pooler_output": it.expected["1.out.pooler_output"]}, wanted) < 1e-6


@pytest.mark.parametrize(
    ("row", "part", "kind", "parts"),
    [
        ("clip.text", "model", "CLIPModel", "text, vision"),
        ("siglip.vision", "encoder", "SiglipModel", "text, vision"),
        ("whisper.encoder", "model", "WhisperForConditionalGeneration", "encoder"),
        ("bert.encoder", "vision", "BertModel", "model, base"),
        ("vit.encoder", "heart", "ViTForImageClassification", "model, base"),
    ],
)
def test_a_part_that_a_model_has_not_is_refused_with_those_that_it_has(row, part, kind, parts):
    with pytest.raises(UnsupportedError) as refused:
        capture(config_of(row), {}, part)
    said = str(refused.value)
    assert f"{kind} has no part '{part}'" in said and f"What it has is {parts}." in said
    assert f'part = "{parts.split(",")[0]}"' in said


def test_a_class_that_transformers_lacks_is_refused():
    config = config_of("bert.encoder") | {"architectures": ["BertForEverything"]}
    with pytest.raises(UnsupportedError, match="the architecture 'BertForEverything'; Transformers 5"):
        capture(config, {})


def test_a_model_that_reads_something_else_is_refused():
    with pytest.raises(UnsupportedError, match="(?s)Wav2Vec2Model reads input_values.*exported reads input_ids, "):
        capture(config_of("wav2vec2.encoder"), {})


def test_a_model_that_returns_lists_only_is_refused():
    with pytest.raises(UnsupportedError, match="ResNetBackbone returns no tensor by itself"):
        capture(config_of("resnet.encoder") | {"architectures": ["ResNetBackbone"]}, {})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t.pop("encoder.layer.0.output.dense.weight"),
            "lacks 1 tensors, the first is encoder.layer.0.output",
        ),
        (
            lambda t: t.update({"extra.weight": [2]}),
            "does not use 1 tensors of the checkpoint, the first is extra.weight",
        ),
    ],
)
def test_missing_and_unused_tensors_are_named(made, edit, message):
    it = made("ernie.encoder")
    tensors = tensors_of(it.folder)
    edit(tensors)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        capture(it.config, tensors)


def test_heads_of_another_training_may_lie_in_the_checkpoint(made):
    """As in bert-base, which names the class with one of the two heads that it was trained with."""
    it = made("bert.masked")
    tensors = tensors_of(it.folder)
    graph = capture(it.config, tensors)
    more = {
        "bert.pooler.dense.weight": [64, 64],
        "bert.pooler.dense.bias": [64],
        "cls.seq_relationship.weight": [2, 64],
    }
    assert ir.to_proto(capture(it.config, tensors | more)) == ir.to_proto(graph)


def test_a_language_head_reads_the_embedding_where_the_checkpoint_has_one_table(made):
    it = made("bert.masked")
    assert not any("decoder" in name for name in tensors_of(it.folder))
    graph = ir.load(it.graph).graph
    (table,) = (v for n in nodes(graph, "Weight") if "word_embeddings" in attribute(n, "parts")[0] for v in n.outputs)
    assert {user.op_type for user, _ in table.uses()} == {"Gather", "Linear"}


@pytest.mark.parametrize("name", DEEP)
def test_stamped_layers_equal_layers_traced_one_by_one(made, tmp_path, monkeypatch, name):
    it, traced = made(name), []

    def representatives(kind: list[int]) -> list[int]:
        traced.append(len(chosen(kind)))
        return [*range(len(kind))]

    chosen = layers.representatives
    monkeypatch.setattr(layers, "representatives", representatives)
    canonical.save(capture(it.config, tensors_of(it.folder)), tmp_path / "whole.onnx")
    assert traced == [2]  # of six
    assert (tmp_path / "whole.onnx").read_bytes() == it.graph.read_bytes()


def test_attention_and_norms_are_one_op_each_on_the_cpu(made, tmp_path):
    it = made("bert.encoder")
    built = ir.load(build(it.graph, it.folder, tmp_path, "cpu"))
    found, depth = operations(built), it.config["num_hidden_layers"]
    assert found.count("MultiHeadAttention") == depth and "Softmax" not in found
    assert found.count("SkipLayerNormalization") == 2 * depth and found.count("LayerNormalization") == 1
    for node in nodes(built.graph, "MultiHeadAttention"):
        assert (
            attribute(node, "num_heads") == it.config["num_attention_heads"] and "unidirectional" not in node.attributes
        )
        assert node.inputs[4].producer().inputs[0].name == "attention_mask"


def test_a_graph_of_convolutions_is_in_every_device_s_form(made):
    """And optimize, which finds nothing to do, is no error."""
    optimize = load_pass("optimize")
    model = ir.load(made("resnet.encoder").graph)
    before = operations(model)
    assert {n.op_type for n in model.graph if n.domain} == {"Weight", "Linear"}
    assert optimize.rewrite(model, optimize.Options("cpu")) == len(model.graph)
    assert operations(model) == before


def test_a_text_tower_that_looks_back_only_says_so(made, tmp_path):
    it = made("clip.text")
    built = ir.load(build(it.graph, it.folder, tmp_path, "cpu"))
    found = nodes(built.graph, "MultiHeadAttention")
    assert len(found) == 2 and all(attribute(n, "unidirectional") == 1 for n in found)


@pytest.mark.parametrize("name", ["bert.encoder", "mpnet.encoder", "deberta-v2.encoder", "bert.choices"])
@pytest.mark.parametrize("device", ["portable", "cpu"])
def test_any_number_of_texts_of_any_length(made, tmp_path, device, name):
    it, random = made(name), np.random.default_rng(1)
    file, model = build(it.graph, it.folder, tmp_path, device), transformers_model(it)
    for batch, length in [(1, 1), (3, 5), (2, 7), (3, 40)]:
        mask = np.ones((batch, *[5] * (name == "bert.choices"), length), np.int64)
        mask[1:, ..., length - length // 3 :] = 0
        given = {
            "input_ids": random.integers(3, 160, mask.shape),
            "attention_mask": mask,
            "token_type_ids": random.integers(0, 2, mask.shape),
        }
        given = {name: value for name, value in given.items() if name in it.inputs(0)}
        assert error(ran(file, given), computed(model, given)) < TOLERANCE, f"{batch} of {length}"


@pytest.mark.parametrize("device", ["portable", "cpu"])
def test_pictures_of_any_size_where_the_model_takes_them(made, tmp_path, device):
    it, random = made("resnet.encoder"), np.random.default_rng(1)
    file, model = build(it.graph, it.folder, tmp_path, device), transformers_model(it)
    for batch, height, width in [(1, 96, 160), (3, 65, 64), (2, 224, 224)]:
        given = {"pixel_values": random.standard_normal((batch, 3, height, width)).astype(np.float32)}
        assert error(ran(file, given), computed(model, given)) < TOLERANCE, f"{batch} of {height} x {width}"


def see_everything(model: ir.Model) -> None:
    """Layers that see a window see all that the others see."""
    every = nodes(model.graph, "Attention")
    mask = next(node.inputs[5] for node in every if node.inputs[5] is not None)
    for node in every:
        if len(node.inputs) > 7:
            node.replace_input_with(5, mask)
            node.replace_input_with(7, None)


def swap_outputs(model: ir.Model) -> None:
    first, second = model.graph.outputs
    first.name, second.name = second.name, first.name


def one_type(model: ir.Model) -> None:
    """Every token of the first type."""
    (look_up,) = (node for node in nodes(model.graph, "Gather") if node.inputs[1].name == "token_type_ids")
    zeros = ir.node("Sub", [look_up.inputs[1]] * 2)
    model.graph.insert_before(look_up, zeros)
    look_up.replace_input_with(1, zeros.outputs[0])


MISTAKES = {
    "a forgotten padding mask": ("bert.encoder", forget("Attention", 5)),
    "attention that looks back only": ("bert.encoder", change("Attention", "causal", lambda c: 1)),
    "attention that looks ahead": ("clip.text", change("Attention", "causal", lambda c: 0)),
    "a wrong scale": ("bert.encoder", change("Attention", "scale", lambda s: 1.05 * s)),
    "a scale turned over": ("vit.encoder", change("Attention", "scale", lambda s: 1 / s)),
    "a layer norm taken for an RMS norm": ("bert.encoder", as_rms_norm),
    "token types ignored": ("bert.encoder", one_type),
    "a dropped window": ("modernbert.encoder", see_everything),
    "start and end exchanged": ("roberta.encoder", swap_outputs),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(made, tmp_path, mistake):
    name, plant = MISTAKES[mistake]
    it = made(name)
    model = ir.load(it.graph)
    before = ir.to_proto(model).SerializeToString()
    plant(model)
    assert ir.to_proto(model).SerializeToString() != before
    canonical.save(model, tmp_path / "wrong.onnx")
    file = build(tmp_path / "wrong.onnx", it.folder, tmp_path / "portable", "portable")
    assert max(parity.compare(file, it.expected).values()) > 10 * TOLERANCE


@pytest.mark.parametrize("spoilt", ["a word", "padding"])
def test_what_padding_itself_becomes_is_not_compared(made, tmp_path, spoilt):
    it = made("bert.encoder")
    file, place = build(it.graph, it.folder, tmp_path, "cpu"), {"a word": (0, 0), "padding": (1, -1)}[spoilt]
    wanted = {name: value.copy() for name, value in it.expected.items()}
    wanted["1.out.last_hidden_state"][place] += 9
    assert (max(parity.compare(file, wanted).values()) < TOLERANCE) is (spoilt == "padding")


@pytest.mark.parametrize("device", ["cuda", "directml"])
@pytest.mark.parametrize("name", HALF)
def test_an_encoder_loses_little_more_in_float16_than_transformers_does(made, tmp_path, device, name):
    it = made(name)
    canonical.save(passed(it.graph, ("cast", "fp16"), ("optimize", device)), tmp_path / "model.onnx")
    errors = parity.check(str(it.folder), str(tmp_path / "model.onnx"), device)
    ways = ("", " rounded")
    assert errors.keys() == {f"{output} {call}{way}" for output in heads(name) for call in CALLS for way in ways}
    assert max(errors.values()) < compared.TIMES


def test_a_distance_keeps_its_bucket_in_float16(made):
    """Its logarithm stays in float32; what is looked up for the bucket does not."""
    built = passed(made("mpnet.encoder").graph, ("cast", "fp16"))
    (logarithm,) = nodes(built.graph, "Log")
    assert logarithm.outputs[0].dtype == ir.DataType.FLOAT
    assert {n.outputs[0].dtype for n in nodes(built.graph, "Weight", "Linear", "LayerNorm")} == {ir.DataType.FLOAT16}
    assert load_pass("cast").rewrite(built, load_pass("cast").Options("fp16")) == 0


@pytest.mark.parametrize("device", ["cuda", "directml"])
def test_quantised_half_graphs_are_well_typed(made, tmp_path, device):
    it = made("bert.encoder")
    for dtype in ("fp16", "bf16")[: 2 if device == "cuda" else 1]:
        built = passed(it.graph, ("cast", dtype), ("optimize", device), ("quantize_rtn", 4, 16))
        file = bind(built, it.folder, tmp_path / dtype, device)
        if dtype == "fp16":
            open_session(file)  # the runtime compares the types that it infers with the file's
        else:
            with pytest.raises(NoKernel, match="Could not find an implementation"):
                open_session(file)


def quantised(it: Made, out: Path, **options) -> ir.Model:
    """The graph for the CPU with quantised weights, saved and compared with weights rounded in numpy."""
    model, rtn = passed(it.graph, ("optimize", "cpu")), load_pass("quantize_rtn")
    assert rtn.rewrite(model, rtn.Options(block_size=16, **options)) > 0
    assert "Linear" not in operations(model)
    canonical.save(model, out / "model.onnx")
    errors = parity.check(str(it.folder), str(out / "model.onnx"), "cpu")
    assert max(errors.values()) < TOLERANCE, errors
    return model


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_twins_compute_with_weights_rounded_as_numpy_rounds_them(made, tmp_path, bits, symmetric):
    found = operations(quantised(made("bert.encoder"), tmp_path, bits=bits, symmetric=symmetric))
    assert found.count("MatMulNBits") == 2 * 6 + 1  # of each layer, and the pooler
    assert found.count("GatherBlockQuantized") == 3  # words, positions and types


def test_a_table_that_no_token_looks_up_may_be_narrower_than_a_block(made, tmp_path):
    """Biases by distance, one for each head: they stay, and the words' embedding does not."""
    model = quantised(made("mpnet.encoder"), tmp_path, bits=4)
    kept = {attribute(n, "parts")[0] for n in nodes(model.graph, "Weight")}
    assert "encoder.relative_attention_bias.weight" in kept
    assert operations(model).count("GatherBlockQuantized") == 2


def test_a_masked_language_head_is_a_head_to_quantisers(made, tmp_path):
    model = quantised(made("bert.masked"), tmp_path, bits=4, lm_head="int8")
    bits = {
        attribute(n, "parts")[0].split(".")[-2]: attribute(n, "bits") for n in nodes(model.graph, "QuantizedWeight")
    }
    assert bits["word_embeddings"] == 8 and bits["query"] == bits["position_embeddings"] == 4


def test_package_genai_refuses_what_generates_no_text(made, tmp_path):
    it, package = made("bert.encoder"), load_pass("package_genai")
    canonical.save(passed(it.graph, ("optimize", "cpu")), tmp_path / "model.onnx")
    (tmp_path / "checkpoint").symlink_to(it.folder)
    with pytest.raises(PassError, match="(?s)generates no text.*package_onnx in place of package_genai"):
        package.run(tmp_path, tmp_path / "out", package.Options("cpu"))


INT8 = [
    *(
        (f"{kind}.encoder", one)
        for kind in ("bert", "mpnet", "vit", "convnext")
        for one in ("quantize_dynamic", "quantize_static")
    ),
    ("resnet.encoder", "quantize_static"),  # all of it is convolutions
]


def step_folder(it: Made, folder: Path) -> Path:
    """What a step that calibrates sees: the twin's graph for the CPU and its checkpoint, a tokenizer or pictures."""
    (folder / "checkpoint").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "checkpoint" / name).symlink_to(it.folder / name)
    write_tokenizer(folder / "checkpoint", 160)
    (folder / "calibration.txt").symlink_to(paths.TEXTS / "calibration.txt")
    if "input_ids" not in it.inputs(0):
        both = zip(*(it.inputs(call).items() for call in (0, 1)))
        np.savez(folder / "calibration.npz", **{name: np.concatenate([one, two]) for (name, one), (_, two) in both})
    model = ir.load(it.graph)
    optimize(model, "cpu")
    canonical.save(model, folder / "model.onnx")
    return folder


def int8(it: Made, folder: Path, name: str) -> ir.Model:
    """The twin's graph with int8 weights and activations."""
    one, src = load_pass(name), step_folder(it, folder)
    model = ir.load(src / "model.onnx")
    if name == "quantize_dynamic":
        assert one.rewrite(model, one.Options("cpu")) > 0
        canonical.save(model, src / "made.onnx")
        return ir.load(src / "made.onnx")
    (src / "out").mkdir()
    file, samples = ("calibration.txt", 64) if "input_ids" in it.inputs(0) else ("calibration.npz", 3)
    one.run(src, src / "out", one.Options("cpu", calibration=file, samples=samples, tokens=32))
    return ir.load(src / "out" / "model.onnx")


@pytest.mark.parametrize(("name", "one"), INT8)
def test_int8_twins_are_near_float32_and_right_but_for_what_is_rounded(made, tmp_path, name, one):
    """With integers within a few hundredths; with the same weights, rounded by numpy, and float activations exact."""
    it, text = made(name), "input_ids" in made(name).inputs(0)
    model = int8(it, tmp_path, one)
    found = operations(model)
    assert "Linear" not in found and found.count("ChannelQuantizedWeight") > 1
    assert ("Conv" in found) is not text and ("FusedMatMul" in found) is False
    for key, value in encoded(bind(model.clone(), it.folder, tmp_path / "near"), it.expected).items():
        wanted = it.expected[key]
        assert np.linalg.norm(value - wanted) < 0.05 * np.linalg.norm(wanted), key
    canonical.save(model, tmp_path / "int8.onnx")
    assert max(parity.check(str(it.folder), str(tmp_path / "int8.onnx"), "cpu").values()) < TOLERANCE


def test_a_masked_language_head_shares_its_int8_table_with_the_words(made, tmp_path):
    model = int8(made("bert.masked"), tmp_path, "quantize_dynamic")
    (table,) = (n for n in nodes(model.graph, "ChannelQuantizedWeight") if "word" in attribute(n, "parts")[0])
    assert {user.op_type for user, _ in table.outputs[0].uses()} == {"Gather", "Transpose"}
    canonical.save(model, tmp_path / "int8.onnx")
    folder = made("bert.masked").folder
    assert max(parity.check(str(folder), str(tmp_path / "int8.onnx"), "cpu").values()) < TOLERANCE


def test_a_stream_of_states_too_large_for_float16_stays_float32_from_layer_to_layer(made, tmp_path):
    """As in models trained in bfloat16: what the first layer adds passes 65504."""
    it, one = made("vit.encoder"), load_pass("cast_calibrated")
    src = step_folder(it, tmp_path)
    (name,) = (n for n in tensors_of(it.folder) if n.endswith("layer.0.output.dense.weight"))
    tensors = load_file(it.folder / "model.safetensors")
    (src / "checkpoint" / "model.safetensors").unlink()
    save_file(tensors | {name: tensors[name] * 1e5}, src / "checkpoint" / "model.safetensors")
    shutil.copy(it.graph, src / "model.onnx")
    (src / "out").mkdir()
    one.run(src, src / "out", one.Options("cpu", "calibration.npz", samples=3))
    cast = ir.load(src / "out" / "model.onnx")
    sums = [n.outputs[0].dtype for n in nodes(cast.graph, "Add") if len(n.outputs[0].shape) == 3]
    depth = it.config["num_hidden_layers"]
    assert sums.count(ir.DataType.FLOAT) == 2 * depth - 1 and ir.DataType.FLOAT16 in sums
    assert {v.dtype for v in (*cast.graph.inputs, *cast.graph.outputs)} == {ir.DataType.FLOAT16}
    given = it.inputs(1)
    exact = ran(build(it.graph, src / "checkpoint", tmp_path / "exact", "cpu"), given)
    canonical.save(cast, tmp_path / "cast.onnx")
    half = {key: value.astype(np.float16) for key, value in given.items()}
    near = ran(build(tmp_path / "cast.onnx", src / "checkpoint", tmp_path / "near", "cpu"), half)
    assert error({key: value.astype(np.float32) for key, value in near.items()}, exact) < 2e-2
