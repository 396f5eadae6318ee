"""Session options: which are tried, which is chosen, where it is recorded, and that a session heeds it."""

import json
from pathlib import Path

import numpy as np
import pytest
from graphs import load_pass, model, node, value

from onnxmake.build import paths
from onnxmake.errors import PassError, TargetError
from onnxmake.model import canonical, latency, session, step, tuning

PASS = load_pass("tune_session")
FEW = {"threads": (1,), "spinning": (False,), "rounds": 1, "prompt_tokens": 4, "new_tokens": 2}


def tried(**options) -> list[dict]:
    return tuning.tried(vars(PASS.Options("cpu", **options)))


def packaged(folder: Path) -> Path:
    """What package_onnx leaves: a model of input_ids, and its configuration."""
    folder.mkdir()
    ids = value("input_ids", ["batch", "sequence"], session_int())
    out = node("Neg", [ids], ["batch", "sequence"], domain="", dtypes=(session_int(),))
    canonical.save(model([ids], out.outputs, out), folder / "model.onnx")
    (folder / "config.json").write_text('{"vocab_size": 9}')
    return folder


def session_int():
    import onnx_ir as ir

    return ir.DataType.INT64


def test_all_combinations_are_tried_the_runtimes_own_first():
    own = {"session.intra_op.allow_spinning": "0"}
    assert tried(threads=(0,)) == [{}, own]
    assert tried(threads=(0, 2)) == [{}, own, {"intra_op_num_threads": 2}, {"intra_op_num_threads": 2} | own]
    assert tried(
        threads=(3,),
        spinning=(True,),
        arena=(False,),
        prepacking=(False,),
        level=("basic",),
        execution=("parallel",),
        inter_threads=(2,),
    )[1] == {
        "intra_op_num_threads": 3,
        "enable_cpu_mem_arena": False,
        "session.disable_prepacking": "1",
        "graph_optimization_level": "ORT_ENABLE_BASIC",
        "execution_mode": "ORT_PARALLEL",
        "inter_op_num_threads": 2,
    }


@pytest.mark.parametrize(("cores", "threads"), [(1, [1]), (2, [1, 2]), (8, [1, 4, 8])])
def test_without_a_list_one_half_and_all_cores_are_tried(monkeypatch, cores, threads):
    monkeypatch.setattr(tuning.machine, "describe", lambda device: {"cores": cores})
    assert [s["intra_op_num_threads"] for s in tried(spinning=(True,))[1:]] == threads


@pytest.mark.parametrize(
    ("times", "place"),
    [
        ([[1, 1, 1], [0.98, 0.98, 0.98]], 0),  # within what is gained by chance
        ([[1, 1, 1], [0.9, 0.9, 5]], 1),  # one round that was disturbed
        ([[1, 1, 1], [0.8, 2, 2], [0.9, 0.9, 0.9]], 2),
        ([[1], [2]], 0),
    ],
)
def test_the_least_median_is_chosen_if_it_gains_enough(times, place):
    assert tuning.chosen(times, 0.03) == place


def test_rounds_alternate(tmp_path, monkeypatch):
    asked = []

    def measure(folder, settings, prompt_tokens, new_tokens):
        asked.append(settings["n"])
        return {0: 3.0, 1: 1.0, 2: 2.0}[settings["n"]]

    monkeypatch.setattr(tuning, "_run", measure)
    found = tuning.tune(packaged(tmp_path / "src"), [{"n": n} for n in range(3)], 4, 4, 3, 0.03)
    assert found == {"n": 1} and asked == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def ran(src: Path, out: Path, **options) -> list[str]:
    out.mkdir()
    return step.run_pass(
        "tune_session", paths.PASSES / "tune_session.py", {"device": "cpu", **FEW, **options}, False, src, out
    )


def test_options_stand_beside_a_model_that_the_runtime_runs_by_itself(tmp_path, monkeypatch):
    src, out = packaged(tmp_path / "src"), tmp_path / "out"
    monkeypatch.setattr(tuning, "chosen", lambda times, gain: 1)
    assert ran(src, out) == ["config.json", "model.onnx"]
    settings = {"intra_op_num_threads": 1, "session.intra_op.allow_spinning": "0"}
    assert json.loads((out / "session_options.json").read_text()) == settings


def test_a_session_is_opened_with_what_stands_beside_the_model(tmp_path):
    folder = packaged(tmp_path / "model")
    settings = {
        "intra_op_num_threads": 1,
        "enable_cpu_mem_arena": False,
        "session.intra_op.allow_spinning": "0",
        "graph_optimization_level": "ORT_ENABLE_BASIC",
        "execution_mode": "ORT_PARALLEL",
    }
    (folder / session.FILE).write_text(json.dumps(settings))
    opened = session.open_session(folder / "model.onnx")
    options = opened.get_session_options()
    assert options.intra_op_num_threads == 1 and not options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.execution_mode.name == "ORT_PARALLEL" and options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert opened.run(None, latency.inputs(opened, 3, 9))[0].shape == (1, 3)
    plain = session.open_session(folder / "model.onnx", settings={}).get_session_options()
    assert plain.intra_op_num_threads == 0 and plain.enable_cpu_mem_arena


def test_what_is_chosen_for_genai_is_in_its_configuration(built, tmp_path, monkeypatch):
    import onnxruntime_genai as og

    src, out = built.dist("tiny-int4-cpu"), tmp_path / "out"
    monkeypatch.setattr(tuning, "chosen", lambda times, gain: 1)
    kept = ran(src, out)
    assert [p.name for p in out.iterdir()] == ["genai_config.json"] and "model.onnx.data" in kept
    before, after = (json.loads((f / "genai_config.json").read_text()) for f in (src, out))
    told = after["model"]["decoder"]["session_options"]
    assert told == before["model"]["decoder"]["session_options"] | {
        "intra_op_num_threads": 1,
        "session.intra_op.allow_spinning": "0",
    }
    for name in kept:
        (out / name).symlink_to(src / name)
    assert og.Model(str(out)).device_type == "CPU"


def test_a_model_that_is_not_packaged_is_refused(tmp_path):
    src = packaged(tmp_path / "src")
    (src / "config.json").unlink()
    with pytest.raises(PassError, match="(?s)tune_session came before the model was packaged.*to the end"):
        ran(src, tmp_path / "out")


def test_genai_has_no_operators_in_parallel(built, tmp_path):
    with pytest.raises(TargetError, match='execution = "parallel" under tune_session'):
        ran(built.dist("tiny-int4-cpu"), tmp_path / "out", execution=["parallel"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "cuda"}, "device is cuda, and sessions are measured on the CPU"),
        ({"rounds": 0}, "must be at least 1"),
        ({"threads": (-1,)}, "threads no less than 0"),
        ({"gain": 1.0}, "gain must be at least 0"),
    ],
)
def test_options_without_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        PASS.Options(**{"device": "cpu"} | options)


def test_inputs_of_whole_numbers_are_fed_as_such():
    class Input:
        name, shape, type = "ids", ["batch", "sequence"], "tensor(int32)"

    class Session:
        def get_inputs(self):
            return [Input]

    assert latency.inputs(Session(), 3, 9)["ids"].dtype == np.int32
