"""Builds with passes that tune: what follows sees the checkpoint with what they made, export does not run again, and a run that was
stopped goes on."""

import json
import shutil

import pytest
from builder import Builder, verbs
from graphs import write_safetensors
from test_adapters import LAYER, random
from toy import Toy, weights

from onnxmake.build import declaration, execute, garbage, paths, quality, twin
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.target import read_target
from onnxmake.errors import TargetError

TUNE = """data = (src / "checkpoint" / "model.safetensors").read_bytes()
(out / "model.safetensors").write_bytes(data[:-1] + bytes([o.value]))"""
LONG = """state = src.parent / "state" / "reached"
if not state.exists():
    state.write_text("1")
    raise SystemExit(3)
(out / "model.safetensors").write_bytes((src / "checkpoint" / "model.safetensors").read_bytes()[::-1])"""
READS = '("checkpoint/model.safetensors",)'


@pytest.fixture
def toy(tmp_path) -> Toy:
    made = Toy(tmp_path)
    made.write_pass("tune", TUNE, READS, "TUNES = True")
    made.write_pass("long", LONG, READS, "TUNES = True\nRESUMES = True")
    return made


def chain(*tuning: tuple[str, dict]) -> tuple:
    return (*tuning, ("begin", {}), ("scale", {}), ("finish", {}))


def bound(toy: Toy) -> bytes:
    return (toy.dist("x") / "data" / "model.bin").read_bytes()


def test_later_passes_see_the_tuned_checkpoint_and_those_that_read_no_weights_do_not_run_again(toy):
    build = toy.target("x", chain())
    toy.run(build)
    assert bound(toy) == weights() * 4
    for value in (7, 8):
        toy.target("x", chain(("tune", {"value": value})))
        assert verbs(toy.run(build)) == {"tune": "ran", "begin": "restored", "scale": "restored", "finish": "ran"}
        assert bound(toy) == (weights()[:-1] + bytes([value])) * 4
    assert toy.run(build).strip().endswith("build:x: up to date")


def test_of_two_that_tune_the_second_sees_the_first(toy):
    toy.run(toy.target("x", chain(("long", {}), ("tune", {"value": 9}))), code=1)
    toy.run("build:x")
    assert bound(toy) == (weights()[::-1][:-1] + bytes([9])) * 4


def test_a_run_that_was_stopped_leaves_a_state_to_go_on_from_and_one_that_ended_leaves_none(toy):
    build, states = toy.target("x", chain(("long", {}))), toy.cache / "states"
    assert "long ended with exit code 3" in toy.fail(build)
    assert [file.read_text() for file in states.glob("*/reached")] == ["1"]
    toy.run(build)
    assert bound(toy) == weights()[::-1] * 4 and not list(states.iterdir())


def test_a_plan_knows_what_a_tuned_checkpoint_gives(toy):
    build = toy.target("x", chain(("tune", {})))
    first = toy.run("plan", build)
    assert "on tune" in first
    toy.run(build)
    assert "6 up to date" in toy.run("plan", build)


def test_states_that_nobody_went_on_with_are_garbage(output):
    (old := paths.CACHE / "states" / "a").mkdir(parents=True)
    assert old in garbage.find([], -1, None).folders and old not in garbage.find([], 60, None).folders


def target_of(folder, *passes: str):
    lines = "".join(f"[[pass]]\n{text}\n" for text in passes)
    file = folder / "x.toml"
    file.write_text(f'device = "cpu"\n[source]\npath = "{paths.TARGETS / "tiny"}"\n{lines}')
    return read_target(file)


def test_what_stands_behind_a_tuning_pass_needs_a_graph(tmp_path):
    (tmp_path / "d.txt").write_text("text")
    with pytest.raises(TargetError, match=r"\[\[pass\]\] 2 \(optimize\) works on a graph, and none is there yet"):
        target_of(tmp_path, 'use = "finetune"\ndata = "d.txt"', 'use = "optimize"')
    with pytest.raises(TargetError, match="data = 'e.txt' is no file"):
        target_of(tmp_path, 'use = "finetune"\ndata = "e.txt"', 'use = "export"')


@pytest.mark.parametrize(
    ("adapters", "last", "said"),
    [
        (("a", "a"), "attach_adapters", r"\[\[pass\]\] 2 \(finetune\): adapter = 'a' is there already"),
        (("a", ""), "attach_adapters", r"2 \(finetune\) changes the weights that the adapter 'a' is made for"),
        (("", "a", "b"), "optimize", "the adapter 'a' is made, and no pass attaches it"),
    ],
)
def test_no_adapter_is_lost_or_meets_other_weights_than_its_own(tmp_path, adapters, last, said):
    (tmp_path / "d.txt").write_text("text")
    tuning = [f'use = "finetune"\ndata = "d.txt"\nadapter = "{name}"' for name in adapters]
    with pytest.raises(TargetError, match=said):
        target_of(tmp_path, *tuning, 'use = "export"', f'use = "{last}"')


def test_a_twin_goes_without_what_has_the_checkpoints_widths(output):
    target = read_target(paths.TARGETS / "tiny-adapter-cpu.toml")
    execute.make_source(checkpoint_of(target))
    names = [step.name for step in twin._graph_steps(target, checkpoint_of(target))]
    assert names == ["export", "optimize", "quantize_rtn"]
    steps = [{"pass": step.name, "key": step.name} for step in steps_of(target, checkpoint_of(target))]
    assert quality.twin_key(target, {"steps": steps})["steps"] == names
    assert {name for name in declaration.pass_names() if declaration.read_declaration(name).tunes} == {*quality.TUNING}


ADAPTED = """
[[pass]]
use = "import_adapter"
weights = "adapter_model.safetensors"
config = "adapter_config.json"
{name}
[[pass]]
use = "export"
[[pass]]
use = "optimize"
{attach}
[[pass]]
use = "package_genai"
[check]
max_tokens = 512
"""


@pytest.mark.slow
def test_an_adapter_of_peft_is_merged_or_chosen_at_run_time(tmp_path):
    builder = Builder(tmp_path)
    folder = tmp_path / "targets"
    folder.mkdir()
    found = random((768, 256), 3, 1)
    prefix = f"base_model.model.{LAYER}.mlp.up_proj"
    arrays = {f"{prefix}.lora_A.weight": 3 * found.down, f"{prefix}.lora_B.weight": 3 * found.up}
    write_safetensors(folder / "adapter_model.safetensors", arrays)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}))
    merged = builder.target("merged", paths.TARGETS / "tiny", ADAPTED.format(name="", attach=""))
    attach = '[[pass]]\nuse = "attach_adapters"'
    beside = builder.target("beside", paths.TARGETS / "tiny", ADAPTED.format(name='adapter = "mine"', attach=attach))
    printed = builder.run(merged, beside)
    assert verbs(printed)["export"] == "restored" and (builder.dist("beside") / "mine.onnx_adapter").exists()
    assert "adapter_model" not in {p.name for p in builder.dist("merged").iterdir()}
    said = builder.run("try:beside", "-p", "def main(", "-n", "12", "-a", "mine")
    assert "def main(" in said
    assert "has no adapter 'mime'" in builder.fail("try:beside", "-p", "def main(", "-a", "mime")
    checked = builder.run("check:merged")  # against the model with the adapter in it
    assert "top-1 agreement" in checked and "100.00%" in checked


@pytest.mark.slow
def test_the_pass_runs_in_its_own_environment(tmp_path):
    builder = Builder(tmp_path)
    (tmp_path / "targets").mkdir()
    shutil.copy(paths.TARGETS / "texts" / "headers.txt", tmp_path / "targets" / "d.txt")
    text = (
        '[[pass]]\nuse = "finetune"\ndata = "d.txt"\nmax_steps = 2\nbatch_size = 1\ntokens = 32\nwarmup_steps = 0\nsave_steps = 1\n'
        + "".join(f'[[pass]]\nuse = "{name}"\n' for name in ("export", "optimize", "package_genai"))
    )
    build = builder.target("tuned", paths.TARGETS / "tiny", text)
    assert verbs(builder.run(build))["export"] == "restored"
    shutil.copy(paths.TARGETS / "texts" / "README.md", tmp_path / "targets" / "d.txt")
    assert "inputs.data.txt" in builder.run("why", build)
