"""What sweeps find and builds ask: rows of docs/support.md, calls in isolation, twins, and what GenAI is told."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from graphs import bind, model, node, operations, run, value, write_safetensors

from onnxmake.build import paths, support
from onnxmake.build.declaration import declaration
from onnxmake.build.support import DEVICES, Row
from onnxmake.build.target import Bench, Source, Target, Use
from onnxmake.errors import UnsupportedError
from onnxmake.model import genai
from onnxmake.model.isolated import isolated
from onnxmake.model.twin import twin

RIGHT, WRONG = "right 1.1e-06", "WRONG 3.0e-01"
ROWS = {
    "llama": Row((RIGHT,) * len(DEVICES), "2026-11-22"),
    "gemma2": Row((RIGHT, WRONG, "refused: a soft cap", "failed: E: why", "not tried", RIGHT), "2026-11-23"),
}


def test_rows_are_read_as_they_were_saved_in_the_order_of_their_names(tmp_path):
    support.save(ROWS, tmp_path / "support.md")
    assert support.read(tmp_path / "support.md") == ROWS
    lines = (tmp_path / "support.md").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("| ")] == ["architecture", "gemma2", "llama"]
    support.save({}, tmp_path / "support.md")
    assert support.read(tmp_path / "support.md") == {}


@pytest.mark.parametrize(
    ("outcome", "cell"),
    [
        ({"result": {"prompt": 1e-6, "steps": 2.34e-6}}, "right 2.3e-06"),
        ({"result": {"greedy": 0.0}}, "right 0.0e+00"),
        ({"result": {"prompt": 1e-6, "padded": 0.3}}, "WRONG 3.0e-01"),
        ({"result": {"prompt": support.TOLERANCE}}, "WRONG 1.0e-04"),
        ({"result": {"prompt": 1e-6, "steps": float("inf")}}, "WRONG inf"),
        ({"refused": "It has a | and\nmore."}, "refused: It has a / and more."),
        ({"failed": "KeyError: 'x'"}, "failed: KeyError: 'x'"),
        ({"failed": "x" * 500}, "failed: " + "x" * 152),
    ],
)
def test_an_outcome_is_one_cell_that_a_table_can_hold(tmp_path, outcome, cell):
    assert support.verdict(outcome) == cell
    rows = {"a": Row((cell,) * len(DEVICES), "2026-11-22")}
    support.save(rows, tmp_path / "support.md")
    assert support.read(tmp_path / "support.md") == rows


@pytest.mark.parametrize(
    ("architecture", "device", "proven"),
    [
        ("llama", "cpu", True),
        ("gemma2", "portable", True),
        ("gemma2", "genai", True),
        ("gemma2", "cpu", False),
        ("gemma2", "cuda", False),
        ("gemma2", "directml", False),
        ("gemma2", "webgpu", False),
        ("unheard", "cpu", False),
        (None, "cpu", False),
    ],
)
def test_proven_is_only_what_a_sweep_found_right_on_that_device(tmp_path, monkeypatch, architecture, device, proven):
    assert support.is_proven(architecture, device, ROWS) is proven
    monkeypatch.setattr(support, "read", lambda: ROWS)
    (tmp_path / "architecture.json").write_text("{}" if architecture is None else f'{{"model_type": "{architecture}"}}')
    checkpoint = SimpleNamespace(manifest=tmp_path / "manifest.json", record={"saved_by": None})

    def target(*passes, **more) -> Target:
        uses = tuple(
            Use(declaration(name, ""), SimpleNamespace(part="model")) for name in passes or ("export", "optimize")
        )
        return Target("mine", tmp_path / "mine.toml", "", device, Source(path="x"), uses, Bench(), **more)

    support.check(target("optimize"), checkpoint)  # a graph of the user's own is no concern of the table's
    assert support.proof(target("optimize"), checkpoint) is None

    support.check(target(unproven=True), checkpoint)
    said = support.proof(target(), checkpoint)
    if proven:
        support.check(target(), checkpoint)
        assert said == f"{architecture} on {device}: {RIGHT}, {ROWS[architecture].date}"
        return
    assert said == f"unproven: {architecture} on {device}"
    with pytest.raises(UnsupportedError) as caught:
        support.check(target(), checkpoint)
    assert all(word in caught.value.fact for word in ("mine.toml", str(architecture), device))
    known = ROWS[architecture].verdict(device) if architecture in ROWS else "no row for it"
    assert known in caught.value.cause
    assert f"doit sweep:{architecture}" in caught.value.action and "unproven = true" in caught.value.action


def test_every_row_of_the_shipped_table_has_a_verdict_for_every_device():
    rows = support.read()
    assert rows and {len(row.verdicts) for row in rows.values()} == {len(DEVICES)}


def refuse():
    raise UnsupportedError("It has a fact.", "A cause.", "An action.")


OUTCOMES = [
    (lambda: {"a": [1, None, 2.5]}, {"result": {"a": [1, None, 2.5]}}),
    (lambda: None, {"result": None}),
    (lambda: "x" * 1_000_000, {"result": "x" * 1_000_000}),  # more than a pipe holds
    (refuse, {"refused": "It has a fact."}),
    (lambda: {}["lost"], {"failed": "KeyError: 'lost'"}),
    (lambda: [].index("two\nlines"), {"failed": "ValueError: 'two\\nlines' is not in list"}),
    (lambda: sys.exit("first\nsecond"), {"failed": "SystemExit: first"}),
    (lambda: os._exit(0), {"failed": "its process ended without a word"}),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), {"failed": "its process ended without a word"}),
]


@pytest.mark.parametrize(("function", "outcome"), OUTCOMES)
def test_a_call_in_isolation_says_how_it_ended(tmp_path, function, outcome):
    assert isolated(function, log=str(tmp_path / "log"), seconds=60) == outcome


def test_a_call_that_takes_too_long_is_killed(tmp_path):
    def sleep():
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    assert isolated(sleep, log=str(tmp_path / "log"), seconds=1) == {"failed": "did not end within 1 s"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_result_that_json_cannot_say_is_a_failure(tmp_path):
    parent = os.getpid()
    try:
        outcome = isolated(lambda: {1, 2}, log=str(tmp_path / "log"), seconds=60)
    finally:
        if os.getpid() != parent:  # the call's process came out here: no second run of the tests
            os._exit(1)
    assert outcome["failed"].startswith("TypeError")


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_what_a_call_prints_goes_to_its_log_and_nowhere_else(tmp_path, unbuffered):
    program = (
        "import os, sys; from onnxmake.model.isolated import isolated\n"
        "def speak(name):\n    print('hello', name); os.system('echo from a child'); {}[name]\n"
        "print('before', flush=True); print(isolated(speak, 'you', log=sys.argv[1], seconds=60))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        cwd=paths.ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("before\n{'failed': \"KeyError: 'you'\"}\n", "")
    log = (tmp_path / "log").read_text().splitlines()
    assert {"hello you", "from a child", "Traceback (most recent call last):", "KeyError: 'you'"} <= set(log)


def decoder(**states) -> ir.Model:
    """A graph whose states, "0.key" -> shape without tokens, grow by what comes in; logits of 160 tokens."""
    hidden = value("hidden", ["batch", "sequence", 160])
    inputs, outputs, made = [hidden], [], []
    logits = node("Neg", [hidden], ["batch", "sequence", 160], domain="")
    for name, (heads, width) in states.items():
        growing = name.endswith(("key", "value"))
        shape = ["batch", heads, *(["past"] if growing else []), width]
        past, new = value(f"past_key_values.{name}", shape), value(f"new_{name}", shape)
        op, more = ("Concat", {"axis": 2}) if growing else ("Add", {})
        grown = node(op, [past, new], ["batch", heads, *(["total"] if growing else []), width], domain="", **more)
        grown.outputs[0].name = f"present.{name}"
        inputs, outputs, made = [*inputs, past, new], [*outputs, grown.outputs[0]], [*made, grown]
    logits.outputs[0].name = "logits"
    return model(inputs, [logits.outputs[0], *outputs], logits, *made)


@pytest.mark.parametrize(("key", "valued"), [(32, 16), (16, 32), (16, 16)])
def test_keys_and_values_get_one_width_and_keep_their_numbers(tmp_path, key, valued):
    rng, sides = np.random.default_rng(0), {"0.key": key, "0.value": valued}
    plain, padded = (decoder(**{n: (2, w) for n, w in sides.items()}) for _ in range(2))
    genai.equal_widths(padded.graph)
    assert operations(padded).count("Pad") == (key != valued)
    states = [v for v in (*padded.graph.inputs, *padded.graph.outputs) if v.name.startswith(("past", "present"))]
    assert [v.name for v in states] == [f"{k}.{n}" for k in ("past_key_values", "present") for n in sides]
    wide = max(key, valued)
    assert {v.shape[3] for v in states} == {wide}
    data = {"hidden": np.ones((1, 1, 160), np.float32)}
    for name, width in sides.items():
        data |= {
            f"{k}{name}": rng.random((1, 2, n, width), np.float32) for k, n in (("past_key_values.", 3), ("new_", 1))
        }
    more = {n: np.pad(a, [(0, 0)] * 3 + [(0, wide - a.shape[3])]) for n, a in data.items() if n.startswith("past")}
    source = write_safetensors(tmp_path / "none", {})
    expected = run(bind(plain, source, tmp_path / "plain"), **data)
    got = run(bind(padded, source, tmp_path / "padded"), **data | more)
    for wanted, out in zip(expected[1:], got[1:]):
        np.testing.assert_array_equal(out[..., : wanted.shape[3]], wanted)
        assert out.shape[3] == wide and not out[..., wanted.shape[3] :].any()


STATES = {
    "attention": (("0.key", "0.value", "1.key", "1.value"), ["key", "value"], None),
    "conv": (("0.conv_state", "1.key", "1.value", "2.conv_state"), ["key", "value", "conv"], "cac"),
    "recurrent": (
        ("0.conv_state", "0.recurrent_state", "1.key", "1.value"),
        ["key", "value", "conv", "recurrent"],
        None,
    ),
    "several": (("0.conv_state", "0.conv_state.1", "1.key", "1.value"), ["key", "value", "conv"], "ca"),
}


@pytest.mark.parametrize("kind", STATES)
def test_genai_is_told_the_names_of_every_kind_of_state_and_which_layers_convolve(kind):
    names, kinds, layers = STATES[kind]
    made = genai.genai_config(decoder(**{n: (2, 16) for n in names}).graph, {"eos_token_id": 2}, {})["model"]
    told = {k: v for side in ("inputs", "outputs") for k, v in made["decoder"][side].items() if "%d" in v}
    suffix = {"conv": "conv_state", "recurrent": "recurrent_state"}
    assert told == {f"past_{k}_names": f"past_key_values.%d.{suffix.get(k, k)}" for k in kinds} | {
        f"present_{k}_names": f"present.%d.{suffix.get(k, k)}" for k in kinds
    }
    assert made["decoder"]["num_hidden_layers"] == 1 + max(int(n[0]) for n in names)
    assert (made["decoder"]["head_size"], made["decoder"]["num_key_value_heads"]) == (16, 2)
    expected = None if layers is None else [{"c": "conv", "a": "full_attention"}[k] for k in layers]
    assert made["decoder"].get("layer_types") == expected
    assert made["type"] == ("decoder" if layers is None else "lfm2")
    assert (made["vocab_size"], made["eos_token_id"], made["pad_token_id"]) == (160, 2, 2)


@pytest.mark.parametrize(("heads", "small"), [(32, 4), (8, 2), (2, 2), (1, 1)])
def test_a_twin_keeps_the_ratio_of_heads(heads, small):
    made = twin({"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": heads})
    assert (made["num_attention_heads"], made["num_key_value_heads"]) == (4, small)
    assert made["hidden_size"] == 4 * made["head_dim"]


@pytest.mark.parametrize(
    ("pattern", "kept"), [("sssf" * 3, "ssff"), ("fsss", "fss"), ("ssss", "ss"), ("s", "s"), ("sf" * 4, "sfsf")]
)
def test_a_twin_keeps_two_layers_of_each_kind_in_their_order(pattern, kept):
    kinds = {"s": "sliding_attention", "f": "full_attention"}
    config = {
        "model_type": "gemma3_text",
        "num_hidden_layers": len(pattern),
        "layer_types": [kinds[k] for k in pattern],
    }
    made = twin(config)
    assert (made["layer_types"], made["num_hidden_layers"]) == ([kinds[k] for k in kept], len(kept))


@pytest.mark.parametrize(("vocabulary", "small"), [(32_000, 160), (160, 160), (100, 100)])
def test_a_twin_has_at_most_160_tokens_and_special_ones_among_them(vocabulary, small):
    made = twin({"model_type": "llama", "vocab_size": vocabulary, "bos_token_id": 31_999, "eos_token_id": [7, 8]})
    assert (made["vocab_size"], made["pad_token_id"], made["bos_token_id"], made["eos_token_id"]) == (small, 0, 1, 2)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "deepseek_v3"])
def test_the_twin_of_a_twin_is_itself(kind):
    once = twin({"model_type": kind})
    assert once["num_hidden_layers"] < 26 and once["vocab_size"] == 160
    assert twin(once) == once
