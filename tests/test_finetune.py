"""Fine-tuning in this process: what is read, what is trained, what comes out, and how it goes on after a stop."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import load_pass
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from onnxmake.build import paths
from onnxmake.errors import CheckpointError, TargetError, UnsupportedError
from onnxmake.model import examples, lora, training, tuned
from onnxmake.model.prequantized import TUNED, read_logical

TINY, TEXTS = paths.TARGETS / "tiny", paths.TARGETS / "texts"
DATA, HELD = TEXTS / "headers.jsonl", TEXTS / "headers.txt"
TEMPLATE = "/* {name} */\n{code}"
finetune = load_pass("finetune")
Options = finetune.Options
SMALL = Options(data="data.txt", max_steps=6, batch_size=2, tokens=16, save_steps=2, rank=4, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """A step has a process of its own, and sets it up."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A random model of two layers with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(1)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    shutil.copy(TINY / "tokenizer.json", folder)
    return folder


def step(folder: Path, checkpoint: Path, text: str, o: Options = SMALL) -> Path:
    """What the pass writes, as its process sees things."""
    for name in ("src", "out", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "src" / o.data).write_text(text)
    if not (folder / "src" / "checkpoint").exists():
        (folder / "src" / "checkpoint").symlink_to(checkpoint)
    finetune.run(folder / "src", folder / "out", o)
    return folder / "out"


def perplexity(model: torch.nn.Module, text: str) -> float:
    rows = torch.from_numpy(examples.windows(TINY, HELD, "", 256)[:24])
    with torch.no_grad():
        return math.exp(np.mean([model(input_ids=part, labels=part).loss.item() for part in rows.split(8)]))


def test_a_text_of_another_domain_is_foretold_better_by_a_fifth(tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    before = perplexity(plain, HELD)
    o = Options(
        data="d.jsonl",
        text_template=TEMPLATE,
        max_steps=8,
        batch_size=2,
        tokens=128,
        learning_rate=3e-3,
        warmup_steps=2,
    )
    made = load_file(step(tmp_path, TINY, DATA.read_text("utf-8"), o) / TUNED)
    plain.load_state_dict(made, strict=False)
    assert perplexity(plain, HELD) < 0.8 * before
    assert len(made) == 7 * 6 and "model.embed_tokens.weight" not in made  # the head is tied to it


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_what_is_merged_is_what_peft_merges(small, method):
    o = replace(SMALL, method=method, dropout=0.1)
    model = lora.adapted(plain := lora.load(small, o), lora.modules_of(plain, small, ()), o)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter) / 10
    found = lora.factors(model)
    weights = {name: p.detach().numpy() for name, p in lora.load(small, o).named_parameters()}
    merged = dict(model.merge_and_unload().named_parameters())
    assert len(found) == 14
    for module, factors in found.items():
        name = f"{module}.weight"
        expected = merged[name].detach().numpy()
        assert np.abs(expected - weights[name]).max() > 1e-3
        np.testing.assert_allclose(factors.merged(weights[name]), expected, atol=1e-6)


def test_adapters_alone_change_and_the_same_seed_gives_the_same(small, tmp_path):
    text = HELD.read_text("utf-8")[:4000]
    first, again, other = (
        step(tmp_path / name, small, text, replace(SMALL, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (first / TUNED).read_bytes() == (again / TUNED).read_bytes() != (other / TUNED).read_bytes()
    made, held = load_file(first / TUNED), load_file(small / "model.safetensors")
    for name, tensor in made.items():
        assert (
            tensor.dtype == torch.float32 and np.linalg.matrix_rank((tensor - held[name]).numpy(), 1e-4) <= SMALL.rank
        )


def test_a_run_that_was_stopped_goes_on_to_the_same_result(small, tmp_path, monkeypatch, capsys):
    text, o = HELD.read_text("utf-8")[:4000], replace(SMALL, dropout=0.2)
    whole = step(tmp_path / "whole", small, text, o)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "progress", stop)
        step(tmp_path / "cut", small, text, o)
    assert not list((tmp_path / "cut" / "out").iterdir())
    capsys.readouterr()
    resumed = step(tmp_path / "cut", small, text, o)
    assert "goes on after step 4" in capsys.readouterr().out
    assert (resumed / TUNED).read_bytes() == (whole / TUNED).read_bytes()


def test_a_state_that_is_damaged_is_none(small, tmp_path, capsys):
    text = HELD.read_text("utf-8")[:4000]
    whole = step(tmp_path / "whole", small, text)
    (tmp_path / "cut" / "state").mkdir(parents=True)
    (tmp_path / "cut" / "state" / training.STATE).write_bytes(
        (tmp_path / "whole/state" / training.STATE).read_bytes()[:-900]
    )
    assert (step(tmp_path / "cut", small, text) / TUNED).read_bytes() == (whole / TUNED).read_bytes()
    assert "training begins anew" in capsys.readouterr().out


def test_a_second_tuning_goes_on_from_the_first_and_keeps_what_it_leaves(small, tmp_path):
    text = HELD.read_text("utf-8")[:4000]
    o = replace(SMALL, target_modules=("*.q_proj",))
    first = step(tmp_path / "first", small, text, o)
    both = tmp_path / "second" / "src" / "checkpoint"
    shutil.copytree(small, both)
    shutil.copy(first / TUNED, both)
    second = load_file(step(tmp_path / "second", both, text, replace(o, target_modules=("*.up_proj",))) / TUNED)
    made = load_file(first / TUNED)
    assert {n.split(".")[-2] for n in made} == {"q_proj"} and {n.split(".")[-2] for n in second} == {
        "q_proj",
        "up_proj",
    }
    assert all(torch.equal(second[name], tensor) for name, tensor in made.items())
    assert tuple(read_logical(both)[name].path.name for name in sorted(made)) == (TUNED, TUNED)


def test_qlora_holds_four_bits_and_changes_the_checkpoints_own_values(small, tmp_path):
    o = replace(SMALL, method="qlora")
    held = lora.load(small, o).get_submodule("model.layers.0.mlp.up_proj").weight
    assert held.dtype == torch.uint8 and held.numel() == 32 * 48 // 2
    made = load_file(step(tmp_path, small, HELD.read_text("utf-8")[:4000], o) / TUNED)
    before = load_file(small / "model.safetensors")
    assert len(made) == 14
    for name, tensor in made.items():
        assert np.linalg.matrix_rank((tensor - before[name]).numpy(), 1e-4) <= SMALL.rank


def test_batches_go_through_all_rows_in_an_order_of_each_round():
    rows = np.arange(7)
    drawn = np.concatenate([training.batch(rows, step, 3, 5) for step in range(7)])
    rounds = drawn.reshape(3, 7)
    assert all(sorted(each) == list(range(7)) for each in rounds) and len({tuple(each) for each in rounds}) == 3
    assert (training.batch(rows, 1, 10, 5) == np.concatenate([rounds[1][3:], rounds[2]])[:10]).all()


def test_the_rate_rises_and_falls():
    rates = [training.rate(step, 10, 4, "cosine") for step in range(10)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1, 1] and rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 0.1
    assert [training.rate(step, 10, 2, "constant") for step in range(4)] == [0.5, 1, 1, 1]


def test_rows_become_texts_by_a_template(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text('{"q": "one", "a": "two"}\n\n{"q": "{x}", "a": "y"}\n')
    rows = examples.windows(TINY, file, "{q} = {a}", 2).ravel().tolist()
    tokenizer = examples.tokenizer_of(TINY)
    wanted = [*tokenizer.encode("one = two").ids, 0, *tokenizer.encode("{x} = y").ids, 0]
    assert rows == wanted[: len(wanted) // 2 * 2]
    assert examples.windows(TINY, file, "{q} = {a}", 2, 2).ravel().tolist() == wanted[:4]  # of much data, the beginning


@pytest.mark.parametrize(
    ("name", "text", "template", "said", "advice"),
    [
        ("d.txt", "", "", "The data has 0 tokens; one window of it takes 16.", "Name a longer file"),
        ("d.jsonl", "\n", "", "The data has 0 tokens", "lower tokens"),
        ("d.jsonl", '{"text": "a"}\n{"text"\n', "", "d.jsonl, line 2: no JSON object", "Mend that line"),
        ("d.jsonl", "\n[1]\n", "", "d.jsonl, line 2: no JSON object: not an object", "Mend"),
        (
            "d.jsonl",
            '{"instruction": "a"}',
            "{instructon}",
            "line 1: there is no column 'instructon'",
            "'instruction'?",
        ),
        ("d.jsonl", '{"code": "a"}', "", "line 1: there is no column 'text'", "Valid: code"),
        ("d.jsonl", '{"text": 3}', "", "line 1: column 'text' is no string", "Write a string"),
        ("d.jsonl", '{"text": "a"}', "{text", "text_template = '{text' is none", "Write {{"),
        ("d.jsonl", '{"text": "a"}', "{}", "there is no column ''", "Valid: text"),
        ("d.txt", "a", "{text}", "text_template is given, and d.txt has no columns.", "remove text_template"),
    ],
)
def test_data_that_cannot_be_read_is_named(tmp_path, name, text, template, said, advice):
    (tmp_path / name).write_text(text)
    with pytest.raises(TargetError) as raised:
        examples.windows(TINY, tmp_path / name, template, 16)
    assert said in raised.value.fact and advice in raised.value.action


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"tokens": 1}, "tokens must be at least 2"),
        ({"warmup_steps": 9}, "warmup_steps must be from 0 to max_steps"),
        ({"dropout": 1.0}, "dropout from 0 to below 1"),
        ({"learning_rate": 0.0}, "learning_rate and alpha must be above 0"),
        ({"adapter": "a/b"}, "adapter is a name of letters"),
        ({"adapter": "a", "method": "dora"}, "not of DoRA"),
    ],
)
def test_options_out_of_range_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **wrong)


def test_globs_choose_modules_and_one_that_means_none_is_an_error(small):
    model = lora.load(small, SMALL)
    assert lora.modules_of(model, small, ("*.1.*.[kv]_proj", "*.1.self_attn.v_proj")) == [
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    with pytest.raises(
        TargetError, match="target_modules: 'model.layers.0.mlp.upproj' names no linear layer"
    ) as raised:
        lora.modules_of(model, small, ("model.layers.0.mlp.upproj",))
    assert raised.value.action == "Did you mean 'model.layers.0.mlp.up_proj'?"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "stored quantised"),
        ({"architectures": ["BertModel"]}, "BertModel continues no text"),
    ],
)
def test_a_checkpoint_that_cannot_be_tuned_is_refused(small, tmp_path, change, said):
    config = json.loads((small / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UnsupportedError, match=said):
        lora.load(tmp_path, SMALL)


def test_a_loss_that_is_no_number_is_an_error(small, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(small, broken)
    tensors = load_file(small / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedError, match="The loss of step 1 is not a number"):
        step(tmp_path, broken, HELD.read_text("utf-8")[:4000])


def test_factors_of_another_model_are_refused(small, tmp_path):
    name = "model.layers.0.mlp.up_proj"
    wrong = {
        "shape": ({name: tuned.Factors(np.ones((2, 31), np.float32), np.ones((48, 2), np.float32))}, r"its weight has the shape \[48, 32\]"),
        "rank": ({name: tuned.Factors(np.ones((3, 32), np.float32), np.ones((48, 2), np.float32))}, r"by factors \[3, 32\] and \[48, 2\]"),
        "name": ({"model.layers.7.mlp.up_proj": tuned.Factors(np.ones((2, 32)), np.ones((48, 2)))}, "is not in the checkpoint"),
        "nan": ({name: tuned.Factors(np.full((2, 32), np.nan), np.ones((48, 2)))}, "holds NaN or infinity"),
    }  # fmt: skip
    for factors, said in wrong.values():
        for adapter in ("", "one"):
            with pytest.raises(CheckpointError, match=said):
                tuned.save(small, tmp_path, adapter, factors)
    assert not list(tmp_path.iterdir())
