"""Builds as a person runs them: what is done once, what is done again and why, and what a stop in the middle leaves."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from builder import STEPS, Builder, passes, verbs
from conftest import TINY as TARGETS
from toy import leftovers

from onnxmake.build import paths, store
from onnxmake.build.target import read_targets

TINY = paths.TARGETS / "tiny"
NAMES = ("tiny-fp32-cpu", "tiny-int4-cpu", "tiny-int8-cpu")

pytestmark = pytest.mark.slow


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_shipped_targets_share_their_steps_and_a_second_run_does_nothing(built):
    printed = built.run(*(f"build:{n}" for n in NAMES))
    assert printed.splitlines() == [f"build:{n}: up to date" for n in NAMES]
    records = [json.loads((built.dist(n) / "manifest.json").read_text())["steps"] for n in NAMES]
    for shared in (0, 1):
        assert len({r[shared]["key"] for r in records}) == 1


def test_the_built_folder_has_what_genai_loads_and_only_real_files(built):
    folder = built.dist("tiny-int4-cpu")
    assert {
        "genai_config.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
        "manifest.json",
    } <= set(os.listdir(folder))
    assert all(p.stat().st_nlink == 1 and not p.is_symlink() for p in folder.iterdir())
    recorded = json.loads((folder / "manifest.json").read_text())["files"]
    assert {name: size for name, (_, size) in recorded.items()} == {
        p.name: p.stat().st_size for p in folder.iterdir() if p.name != "manifest.json"
    }


def test_an_edited_option_reruns_only_what_follows_and_why_says_so(tmp_path):
    builder = Builder(tmp_path)
    name = builder.target("x", TINY, passes(*STEPS, block_size=64, bits=8))
    builder.run(name)
    builder.target("x", TINY, passes(*STEPS, block_size=128, bits=8))
    why = builder.run("why", name)
    assert "options.block_size: 64 -> 128" in why and why.count("up to date") == 3
    assert "optimize" not in verbs(builder.run(name))
    builder.target("x", TINY, passes(*STEPS, block_size=64, bits=8))
    assert verbs(builder.run(name)) == {}
    assert "up to date" in builder.run("why", name).splitlines()[-1]


def test_a_new_output_folder_is_filled_from_the_store_with_equal_bytes(built, tmp_path):
    other = Builder(tmp_path)
    assert set(verbs(other.run("build:tiny-int4-cpu")).values()) == {"restored"}
    assert tree(other.dist("tiny-int4-cpu")) == tree(built.dist("tiny-int4-cpu"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "model.onnx.data").unlink(),
        lambda f: (f / "genai_config.json").write_text("{}"),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: os.truncate(f / "model.onnx", 100),
    ],
)
def test_a_damaged_dist_folder_is_replaced(built, tmp_path, damage):
    other = Builder(tmp_path)
    other.run("build:tiny-int4-cpu")
    damage(other.dist("tiny-int4-cpu"))
    other.run("build:tiny-int4-cpu")
    assert tree(other.dist("tiny-int4-cpu")) == tree(built.dist("tiny-int4-cpu"))
    assert [p.name for p in (tmp_path / "dist").iterdir()] == ["tiny-int4-cpu"]


def test_a_damaged_object_is_a_miss_and_is_made_again(built, tmp_path):
    own = Builder(tmp_path / "out", tmp_path / "cache")
    own.run("build:tiny-int4-cpu")
    expected = tree(own.dist("tiny-int4-cpu"))
    sha, _ = json.loads((own.dist("tiny-int4-cpu") / "manifest.json").read_text())["files"]["model.onnx.data"]
    damaged = store.object_path(own.cache / "store", sha)
    damaged.chmod(0o644)
    damaged.write_bytes(b"short")
    (own.dist("tiny-int4-cpu") / "model.onnx").unlink()
    assert verbs(own.run("build:tiny-int4-cpu")) == {"package_genai": "ran"}
    assert tree(own.dist("tiny-int4-cpu")) == expected == tree(built.dist("tiny-int4-cpu"))


def test_clean_removes_dist_and_the_next_build_restores_it(tmp_path):
    builder = Builder(tmp_path)
    builder.run("build:tiny-int4-cpu")
    builder.run("clean", "build:tiny-int4-cpu")
    assert not builder.dist("tiny-int4-cpu").exists()
    assert verbs(builder.run("build:tiny-int4-cpu")) == {}
    assert builder.dist("tiny-int4-cpu").exists()


def test_another_folder_can_stand_in_for_the_checkpoint(tmp_path):
    builder = Builder(tmp_path)
    builder.run(f"source={TINY}", "build:qwen-int4-cpu", builder.target("same", TINY, passes(*STEPS, block_size=32)))
    stood_in, same = (builder.dist(name) / "model.onnx.data" for name in ("qwen-int4-cpu", "same"))
    assert stood_in.read_bytes() == same.read_bytes()


def test_building_all_builds_what_can_be_built(tmp_path):
    builder = Builder(tmp_path, settings={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")})
    printed = builder.fail("build")
    hub = {target.source for target in read_targets([paths.TARGETS]).values() if target.source.repo}
    assert printed.count("could not be fetched") == len(hub) > 10
    assert sorted(os.listdir(tmp_path / "dist")) == sorted(
        [*TARGETS, "tiny-adapter-cpu", "tiny-gptq-cpu", "tiny-lora-cpu"]
    )


def test_two_builds_at_once_run_each_step_once(tmp_path):
    builders = [Builder(tmp_path / "out", tmp_path / "cache") for _ in range(2)]
    running = [b.start("build:tiny-int4-cpu") for b in builders]
    printed = [p.communicate()[0] for p in running]
    assert [p.returncode for p in running] == [0, 0], printed
    assert sum(verbs(text).get("package_genai") == "ran" for text in printed) == 1
    assert os.listdir(tmp_path / "out" / "dist") == ["tiny-int4-cpu"]
    assert builders[0].run("build:tiny-int4-cpu") == "build:tiny-int4-cpu: up to date\n"


def descendants(pid: int) -> list[int]:
    children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [d for c in children for d in descendants(c)]


def wait_for_step(builder: Builder, process, step: str) -> list[int]:
    """Process ids of the step's processes, once its log exists."""
    while process.poll() is None:
        if list((builder.output / "build" / "logs").glob(f"{step}-*.log")) and (found := descendants(process.pid)):
            return found
        time.sleep(0.005)
    raise AssertionError(process.communicate()[0])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_every_process_and_leaves_nothing_half_written(tmp_path, number):
    builder = Builder(tmp_path / "out", tmp_path / "cache")
    process = builder.start("build:tiny-int4-cpu")
    steps = wait_for_step(builder, process, "package_genai")
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    end = time.monotonic() + 20  # a process that is killed takes its namespace's others along, in its own time
    while any(alive(pid) for pid in steps) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(alive(pid) for pid in steps)
    assert not builder.dist("tiny-int4-cpu").exists()
    assert verbs(builder.run("build:tiny-int4-cpu")) == {"package_genai": "ran"}
    assert leftovers(builder) == []


def test_a_killed_step_is_said_and_only_it_runs_again(tmp_path):
    builder = Builder(tmp_path / "out", tmp_path / "cache")
    process = builder.start("build:tiny-int4-cpu")
    for pid in wait_for_step(builder, process, "package_genai"):
        os.kill(pid, signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode != 0 and "package_genai was killed" in printed and "Next:" in printed
    assert not builder.dist("tiny-int4-cpu").exists()
    assert verbs(builder.run("build:tiny-int4-cpu")) == {"package_genai": "ran"}


def test_a_killed_build_loses_only_the_running_step(tmp_path):
    builder = Builder(tmp_path / "out", tmp_path / "cache")
    process = builder.start("build:tiny-int4-cpu")
    steps = wait_for_step(builder, process, "package_genai")
    process.kill()
    process.communicate()
    for pid in filter(alive, steps):  # nothing can end them after SIGKILL of their parent
        os.kill(pid, signal.SIGKILL)
    assert verbs(builder.run("build:tiny-int4-cpu")) == {"package_genai": "ran"}


def test_show_prints_the_target_that_build_would_read(tmp_path):
    shown = Builder(tmp_path).run("show:tiny-int4-directml")
    assert 'device = "directml"' in shown and 'path = "tiny"' in shown and 'lm_head = "int8"' in shown


def test_list_shows_one_line_per_target_and_marks_broken_ones(tmp_path):
    builder = Builder(tmp_path)
    builder.target("broken", TINY, passes("exprot"))
    lines = {line.split()[0]: line for line in builder.run("list").splitlines() if line.strip()}
    assert {*NAMES, "qwen-int4-cpu", "smollm2-int4-cpu"} <= set(lines)
    assert "BROKEN" in lines["broken"] and "exprot" in lines["broken"]
    assert "int4 weights" in lines["tiny-int4-cpu"]


def test_try_streams_text_and_bench_writes_tables(built):
    printed = built.run("try:tiny-int4-cpu", "-p", "import os", "-n", "24")
    assert len(printed[printed.index("import os") :].strip()) > len("import os") + 24
    table = built.run("bench:tiny-int4-cpu")
    assert "decode tok/s" in table and table.count("tiny-int4-cpu") == 2
    result = json.loads((built.output / "build" / "bench" / "tiny-int4-cpu.json").read_text())
    assert result["machine"]["cpu"] and [r["prompt_tokens"] for r in result["runs"]] == [32, 256]
    assert all(r["decode"]["p50"] >= r["decode"]["p90"] > 0 for r in result["runs"])
    assert result["device"] == "CPU" and "47%" in table  # of the checkpoint's size
    assert "| tiny-int4-cpu" in (built.output / "build" / "bench" / "bench.md").read_text()
