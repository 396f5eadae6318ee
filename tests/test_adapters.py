"""Adapters beside the model: the branch gives what merged weights give, each is chosen at run time, and PEFT's files are read."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import load_pass, model, node, value, weight, write_safetensors

from onnxmake.build import paths
from onnxmake.errors import CheckpointError, PassError, TargetError, UnsupportedError
from onnxmake.model import adapters, generate, peft_files, step, tuned
from onnxmake.model.optimize import optimize
from onnxmake.model.safetensors import read_header
from onnxmake.model.tuned import Factors

TINY = paths.TARGETS / "tiny"
LAYER = "model.layers.0"
MODULES = {  # of one product, of parts of one, and one whose product feeds a norm
    "one": ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"),
    "two": ("self_attn.k_proj", "self_attn.o_proj"),
}
RANKS = {"one": 3, "two": 5}
IDS = np.array([[5, 100, 200, 300, 17, 250, 999]])


def random(shape: tuple[int, ...], rank: int, seed: int) -> Factors:
    draw = np.random.default_rng(seed).standard_normal
    return Factors(draw((rank, shape[1]), np.float32) / 10, draw((shape[0], rank), np.float32) / 10)


@pytest.fixture(scope="module")
def factors() -> dict[str, dict[str, Factors]]:
    shapes = {name: tensor.shape for name, tensor in read_header(TINY / "model.safetensors").items()}
    return {
        adapter: {
            f"{LAYER}.{module}": random(shapes[f"{LAYER}.{module}.weight"], RANKS[adapter], seed)
            for seed, module in enumerate(modules, 10 * RANKS[adapter])
        }
        for adapter, modules in MODULES.items()
    }


def checkpoint(folder: Path) -> Path:
    """src/checkpoint as a step sees it."""
    made = folder / "checkpoint"
    made.mkdir(parents=True)
    for file in TINY.iterdir():
        (made / file.name).symlink_to(file)
    shapes = {name: list(tensor.shape) for name, tensor in read_header(TINY / "model.safetensors").items()}
    (made / "tensors.json").write_text(json.dumps(shapes))
    return made


def passed(src: Path, *passes: tuple[str, dict]) -> Path:
    """The folder after passes, each of which sees src/checkpoint and what the one before left."""
    for number, (name, options) in enumerate(passes):
        out = src.parent / f"{src.name}-{number}-{name}"
        out.mkdir()
        kept = step.run_pass(name, paths.PASSES / f"{name}.py", options, False, src, out)
        for file in {*kept} - {"checkpoint"}:
            (out / file).write_bytes((src / file).read_bytes())
        (out / "checkpoint").symlink_to((src / "checkpoint").resolve())
        src = out
    return src


PACKAGE = ("package_genai", {"device": "cpu", "logits": "all"})
RTN = ("quantize_rtn", {"bits": 8, "block_size": 32})


@pytest.fixture(scope="module")
def optimized(captured, tmp_path_factory) -> Path:
    made = ir.load(captured)
    optimize(made, "cpu")
    file = tmp_path_factory.mktemp("optimized") / "model.onnx"
    ir.save(made, file)
    return file


def start(folder: Path, graph: Path) -> Path:
    checkpoint(folder / "src")
    (folder / "src" / "model.onnx").write_bytes(graph.read_bytes())
    return folder / "src"


@pytest.fixture(scope="module")
def attached(optimized, factors, tmp_path_factory) -> Path:
    """The embedded model with both adapters beside it."""
    src = start(tmp_path_factory.mktemp("attached"), optimized)
    for name, found in factors.items():
        tuned.save(TINY, src / "checkpoint", name, found)
    return passed(src, ("attach_adapters", {}), PACKAGE)


def logits(folder: Path, adapter: str = "") -> np.ndarray:
    """By ONNX Runtime itself."""
    session, options = ort.InferenceSession(folder / "model.onnx"), ort.RunOptions()
    if adapter:
        active = ort.LoraAdapter()
        active.Load(str(folder / f"{adapter}.onnx_adapter"))
        options.add_active_adapter(active)
    feeds = {
        i.name: IDS
        if i.name == "input_ids"
        else np.ones_like(IDS)
        if "mask" in i.name
        else np.zeros((1, 2, 0, 64), "f4")
        for i in session.get_inputs()
    }
    return session.run(["logits"], feeds, options)[0]


def test_an_adapter_gives_what_merged_weights_give_and_none_what_was_there(attached, optimized, factors, tmp_path):
    plain = logits(passed(start(tmp_path / "plain", optimized), PACKAGE))
    assert np.array_equal(logits(attached), plain)
    for name, found in factors.items():
        src = start(tmp_path / name, optimized)
        tuned.save(TINY, src / "checkpoint", "", found)
        merged = logits(passed(src, PACKAGE))
        assert np.abs(merged - plain).max() > 0.1
        assert np.abs(logits(attached, name) - merged).max() < 1e-4


def test_genai_changes_adapters_at_run_time(attached, optimized, factors, tmp_path):
    import onnxruntime_genai as og

    loaded = og.Model(str(attached))
    beside = og.Adapters(loaded)
    for name in factors:
        beside.load(str(attached / f"{name}.onnx_adapter"), name)

    def found(name: str) -> np.ndarray:
        generator = og.Generator(loaded, og.GeneratorParams(loaded))
        if name:
            generator.set_active_adapter(beside, name)
        generator.append_tokens(IDS)
        return np.array(generator.get_output("logits"))

    for name in ("one", "two", "", "one"):
        assert np.abs(found(name) - logits(attached, name)).max() < 1e-4


def test_quantised_products_get_branches_too(optimized, factors, tmp_path):
    src = start(tmp_path, optimized)
    tuned.save(TINY, src / "checkpoint", "one", factors["one"])
    quantised = passed(src, RTN)
    made = passed(quantised, ("attach_adapters", {}), PACKAGE)
    base = passed(quantised, PACKAGE)
    assert np.array_equal(logits(made), logits(base))
    merged = start(tmp_path / "merged", optimized)
    tuned.save(TINY, merged / "checkpoint", "", factors["one"])
    wanted, found = logits(passed(merged, PACKAGE)), logits(made, "one")
    assert np.abs(found - wanted).mean() < 0.5 * np.abs(logits(base) - wanted).mean()  # rounding is left


def test_try_names_the_adapter_that_there_is(attached, capsys):
    text = {name: generate.generate(str(attached), "CPU", "def main(", 8, name)["text"] for name in ("", "one", "two")}
    assert len({*text.values()}) == 3
    with pytest.raises(TargetError, match="has no adapter 'onne'") as raised:
        generate.generate(str(attached), "CPU", "def main(", 8, "onne")
    assert raised.value.action == "Did you mean 'one'?"


def test_a_product_of_some_rows_of_a_tensor_takes_those_of_the_factor():
    made = random((6, 4), 2, 0)
    both = adapters.Branch((("fused", 4, 6), ("fused", 0, 2)), value("d", (4, None)), value("u", (None, 4)))
    found = both.of({"fused": made})
    whole = made.up @ made.down
    np.testing.assert_allclose(found["d"] @ found["u"], np.concatenate([whole[4:6], whole[:2]]).T, atol=1e-6)
    assert both.of({"another": made}) == {}


def product(*names: str, **attributes) -> ir.Model:
    x = value("x", ("batch", "sequence", 4))
    first, second = (weight(name, 4, 4) for name in ("first.weight", "second.weight"))
    for name, found in attributes.items():
        first.attributes[name] = found
    hidden = node("Linear", [x, first.outputs[0]], ("batch", "sequence", 4))
    logits = node("Linear", [hidden.outputs[0], second.outputs[0]], ("batch", "sequence", 4))
    return model([x], [logits.outputs[0]], first, second, hidden, logits)


@pytest.mark.parametrize(
    ("changed", "attributes", "error", "said"),
    [
        ("third.weight", {}, PassError, "No product of the graph reads third.weight"),
        ("second.weight", {}, UnsupportedError, "second.weight is the model's head"),
        ("first.weight", {"transposed": ir.AttrInt64("transposed", 1)}, UnsupportedError, "stored in another order"),
        ("first.weight", {"instead_of": ir.AttrString("instead_of", "w")}, UnsupportedError, "quantize_awq has scaled"),
    ],
)
def test_what_a_branch_would_compute_wrongly_is_refused(changed, attributes, error, said):
    shapes = {"first.weight": (4, 4), "second.weight": (4, 4)}
    with pytest.raises(error, match=said):
        adapters.attach(product(**attributes).graph, {changed}, shapes)


def test_only_what_adapters_change_gets_a_branch():
    made = product()
    before = len(made.graph)
    (branch,) = adapters.attach(made.graph, {"first.weight"}, {"first.weight": (4, 4)})
    assert len(made.graph) == before + 3 and branch.down.name == "first.lora_A" and list(branch.up.shape)[1] == 4
    assert adapters.attach(product().graph, set(), {}) == []


def test_adapters_that_a_pass_has_left_behind_are_missed(tmp_path):
    made = product()
    assert adapters.carried(made.graph, tmp_path) == set()
    adapters.attach(made.graph, {"first.weight"}, {"first.weight": (4, 4)})
    with pytest.raises(PassError, match="The adapters that were attached are gone"):
        adapters.carried(made.graph, tmp_path)
    (tmp_path / "a.onnx_adapter").touch()
    assert adapters.carried(made.graph, tmp_path) == {"a.onnx_adapter"}


def test_nothing_to_attach_is_an_error(optimized, tmp_path):
    with pytest.raises(PassError, match="There is no adapter to attach"):
        passed(start(tmp_path, optimized), ("attach_adapters", {}))


SETTINGS = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none", "fan_in_fan_out": False}
UP = f"{LAYER}.mlp.up_proj"


def saved(folder: Path, tensors: dict[str, np.ndarray], **settings) -> tuple[Path, Path]:
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    return write_safetensors(folder / "weights.safetensors", tensors), folder / "config.json"


def pefts(found: Factors) -> dict[str, np.ndarray]:
    prefix = f"base_model.model.{UP}"
    return {f"{prefix}.lora_A.weight": found.down, f"{prefix}.lora_B.weight": found.up}


@pytest.mark.parametrize(
    ("settings", "scale"), [({}, 2), ({"use_rslora": True}, 6 / 3**0.5), ({"lora_alpha": 1.5}, 0.5)]
)
def test_pefts_factors_are_scaled_as_it_scales_them(tmp_path, settings, scale):
    found = random((768, 256), 3, 1)
    read = peft_files.factors(*saved(tmp_path, pefts(found), **settings))
    assert [*read] == [UP] and np.array_equal(read[UP].down, found.down)
    np.testing.assert_allclose(read[UP].up, found.up * scale, rtol=1e-6)


@pytest.mark.parametrize("dora", [False, True])
def test_what_peft_saves_is_merged_as_peft_merges_it(tmp_path, dora):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    config = LoraConfig(r=2, lora_alpha=5, target_modules=[UP], use_dora=dora)
    adapted = get_peft_model(plain, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter) / 10
    adapted.save_pretrained(tmp_path / "adapter")
    src = start(tmp_path, TINY / "config.json")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (src / name).symlink_to(tmp_path / "adapter" / name)
    options = {"weights": "adapter_model.safetensors", "config": "adapter_config.json"}
    out = passed(src, ("import_adapter", options))
    expected = adapted.merge_and_unload().get_parameter(f"{UP}.weight").detach().numpy()
    tensor = read_header(out / "tuned.safetensors")[f"{UP}.weight"]
    found = np.fromfile(tensor.path, np.float32, offset=tensor.offset).reshape(tensor.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_dora_can_be_merged_only(tmp_path):
    found = random((768, 256), 3, 1)
    dora = {UP: Factors(found.down, found.up, np.ones(768, np.float32))}
    with pytest.raises(UnsupportedError, match="The adapter is a DoRA"):
        tuned.save(TINY, tmp_path, "one", dora)
    tuned.save(TINY, tmp_path, "", dora)
    tensor = read_header(tmp_path / "tuned.safetensors")[f"{UP}.weight"]
    rows = np.fromfile(tensor.path, np.float32, offset=tensor.offset).reshape(tensor.shape)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "more", "error", "said"),
    [
        ({"modules_to_save": ["lm_head"]}, {}, UnsupportedError, 'The adapter says modules_to_save = \\["lm_head"\\]'),
        ({"peft_type": "IA3"}, {}, UnsupportedError, "says peft_type"),
        ({"alpha_pattern": {"up_proj": 3}}, {}, UnsupportedError, "says alpha_pattern"),
        ({"r": "3"}, {}, CheckpointError, "is no adapter_config.json"),
        ({"use_dora": True}, {}, CheckpointError, "has no magnitudes, though use_dora is set"),
        ({}, {"base_model.model.lm_head.weight": np.ones(2, "f4")}, UnsupportedError, "holds base_model.model.lm_head"),
        ({}, {"base_model.model.a.lora_A.weight": np.ones((3, 2), "f4")}, CheckpointError, "adapter of a is not whole"),
    ],
)
def test_what_is_more_than_factors_is_refused(tmp_path, settings, more, error, said):
    with pytest.raises(error, match=said):
        peft_files.factors(*saved(tmp_path, pefts(random((768, 256), 3, 1)) | more, **settings))


def test_a_file_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="weights.safetensors holds no adapter"):
        peft_files.factors(*saved(tmp_path, {}))


@pytest.mark.parametrize("name", ["import_adapter", "finetune"])
def test_an_adapters_name_is_a_files_name(name):
    files = {"import_adapter": {"weights": "w", "config": "c"}, "finetune": {"data": "d"}}[name]
    assert load_pass(name).Options(**files, adapter="my-2_nd").adapter == "my-2_nd"
    with pytest.raises(ValueError, match="adapter is a name of letters, digits, - and _"):
        load_pass(name).Options(**files, adapter="../a")
