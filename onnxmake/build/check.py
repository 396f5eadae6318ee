"""`doit check:NAME`: the target's passes on a twin of its checkpoint, compared with what Transformers computes."""

from pathlib import Path

from onnxmake.build import execute, paths, store, support
from onnxmake.build.plan import Step, steps_of
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Target
from onnxmake.errors import CheckFailed

TOLERANCE = {
    "fp32": support.TOLERANCE,
    "fp16": 2e-2,
    "bf16": 2e-2,
}  # relative to the largest logit, by the type of what is computed


def _graph_steps(target: Target, checkpoint: Checkpoint) -> list[Step]:
    """Those that rewrite the graph: what comes behind them lays out files."""
    steps = steps_of(target, checkpoint)
    return [step for step in steps if not step.name.startswith("package_")]


def _twin(target: Target, checkpoint: Checkpoint) -> Path:
    """A twin of the target's checkpoint, with what Transformers computes of it."""
    folder = paths.BUILD / "check" / target.name
    action = {"configs": {"twin": support.architecture_of(checkpoint)}, "part": support.part_of(target)}
    outcome = support.run("sweep", "torch", folder, action, f"check:{target.name}")["twin"]
    if "result" not in outcome:
        raise CheckFailed(
            f"{target.name}: no twin could be compared: {next(iter(outcome.values()))}.",
            "The architecture is not supported, or a twin of it cannot be made.",
            f"Read {paths.shown(folder / 'twin' / 'make.log')}.",
        )
    return folder / "twin"


def check(target: Target, checkpoint: Checkpoint) -> None:
    """Raises CheckFailed where the twin's logits differ by more than the tolerance."""
    folder = _twin(target, checkpoint)
    twin = Checkpoint(target.source, folder)
    execute.make_source(twin)
    steps = _graph_steps(target, twin)
    for step in steps:
        execute.make_step(step, [])
    graph = folder / "passed.onnx"
    graph.unlink(missing_ok=True)
    store.lay_out({graph.name: steps[-1].record["files"]["model.onnx"]}, folder, link=False)
    action = {"graph": str(graph), "device": target.device}
    errors = support.run("parity", "cpu", folder, action, f"check:{target.name}")
    casts = [step.use.options.dtype for step in steps if step.name == "cast"]
    limit, worst = TOLERANCE[casts[-1] if casts else "fp32"], max(errors.values())
    shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    if not worst <= limit:
        raise CheckFailed(
            f"{target.name}: its twin computes something else than Transformers: {shown}; at most {limit:.0e} is right.",
            "A pass or a device's table changes the computation.",
            "Report the model; do not ship this build.",
        )
    say(f"check:{target.name}: right on a twin ({shown}; at most {limit:.0e})")
