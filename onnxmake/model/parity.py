"""Does a model compute what Transformers computes: a prompt at once, token by token, and a padded batch.

{"folder", "names", "devices"} -> name -> device -> {"result": errors} | {"refused"} | {"failed"}, over twins as sweep.py
makes them; all devices' graphs are run by the CPU provider, and the CPU's once more by GenAI for "genai", and with weights
rounded to 4 bits for "int4".
{"folder", "graph", "device"} -> errors of one twin's graph after a target's passes.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model import canonical, genai
from onnxmake.model.assemble import assemble
from onnxmake.model.blocks import quantize
from onnxmake.model.emulate import rounded_checkpoint
from onnxmake.model.feeds import empty
from onnxmake.model.graph import nodes
from onnxmake.model.isolated import isolated
from onnxmake.model.optimize import optimize
from onnxmake.model.serve import serve
from onnxmake.model.session import open_session
from onnxmake.model.stored import FILE

STEPS = 16  # decoded one by one behind the prompt
LAST = 4  # of the padded batch
SECONDS = 240.0
CALLS = ("alone", "in a batch")  # of an encoder


class Runner:
    """A bound decoder as a function of tokens, with its states."""

    def __init__(self, file: Path):
        self.session = open_session(file)
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.past = [n.name.replace("present", "past_key_values") for n in self.session.get_outputs()[1:]]

    def empty(self, batch: int) -> list[np.ndarray]:
        """States before the first token: no keys and values, and zeros for what has a fixed size."""
        states = empty(self.session, batch)
        return [states[name] for name in self.past]

    def __call__(
        self, ids: np.ndarray, mask: np.ndarray, past: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **dict(zip(self.past, past))}
        logits, *present = self.session.run(None, {k: v for k, v in feed.items() if k in self.inputs})
        return logits, present


def decoded(decoder: Runner, ids: np.ndarray, mask: np.ndarray, prompt: int) -> np.ndarray:
    """Logits of the prompt and of each token after it, as if they had come at once."""
    logits, past = decoder(ids[:, :prompt], mask[:, :prompt], decoder.empty(len(ids)))
    rows = [logits]
    for t in range(prompt, ids.shape[1]):
        logits, past = decoder(ids[:, t : t + 1], mask[:, : t + 1], past)
        rows.append(logits)
    return np.concatenate(rows, 1)


def _finite(errors: Mapping[str, float]) -> dict[str, float]:
    """The errors, infinite where the model computed NaN."""
    return {name: float(value) if np.isfinite(value) else float("inf") for name, value in errors.items()}


def compare(file: Path, expected: Mapping[str, np.ndarray], padded: bool = True) -> dict[str, float]:
    """Largest difference to what is expected, relative to the largest value: of each output of an encoder; of a decoder's
    logits in prefill, decode and a padded batch. Infinite where the model computes NaN.
    """
    if "logits" not in expected:
        return _compare_encoder(file, expected)
    decoder, ids, logits = Runner(file), expected["ids"], expected["logits"]
    scale, ones, prompt = np.abs(logits).max(), np.ones_like(ids), expected["ids"].shape[1] - STEPS
    out = {
        "prefill": np.abs(decoder(ids, ones, decoder.empty(1))[0] - logits).max() / scale,
        "decode": np.abs(decoded(decoder, ids, ones, prompt) - logits)[:, prompt:].max() / scale,
    }
    if padded:
        ids, mask, logits = (expected[f"batch_{name}"] for name in ("ids", "mask", "logits"))
        difference = np.abs(decoded(decoder, ids, mask, ids.shape[1] - LAST) - logits)
        out["padded"] = difference[mask.astype(bool)].max() / np.abs(logits).max()
    return _finite(out)


def encoded(file: Path, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs N.out.NAME of an encoder for the inputs N.in.NAME of `given`."""
    session = open_session(file)
    out: dict[str, np.ndarray] = {}
    names = [output.name for output in session.get_outputs()]
    for call in sorted({name.split(".")[0] for name in given}):
        feed = {i.name: given[f"{call}.in.{i.name}"] for i in session.get_inputs()}
        out |= {f"{call}.out.{name}": value for name, value in zip(names, session.run(names, feed))}
    return out


def _compare_encoder(file: Path, expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of each output that Transformers has, too: a pass may have added or removed some. Padding's own states mean nothing."""
    out = {}
    for key, made in encoded(file, expected).items():
        call, _, name = key.split(".", 2)
        if (wanted := expected.get(key)) is None:
            continue
        mask = expected.get(f"{call}.in.attention_mask")
        kept = ... if mask is None or mask.shape != wanted.shape[:2] else mask.astype(bool)
        out[f"{name} {CALLS[int(call)]}"] = np.abs(made - wanted)[kept].max() / np.abs(wanted[kept]).max()
    return _finite(out)


def build(graph: Path, checkpoint: Path, out: Path, device: str, finish: Callable = lambda graph: None) -> Path:
    """The captured graph for the device, changed by `finish`, with the checkpoint's weights. Returns the model's file."""
    model = ir.load(graph)
    optimize(model, device)
    finish(model.graph)
    out.mkdir(exist_ok=True)
    assemble(model, device, checkpoint, out, lambda done, total: None)
    return out / "model.onnx"


def generate(folder: Path, prompt: np.ndarray, count: int) -> np.ndarray:
    """The prompt and `count` tokens that GenAI continues it by, without sampling."""
    import onnxruntime_genai as og

    parameters = og.GeneratorParams(model := og.Model(str(folder)))
    parameters.set_search_options(max_length=len(prompt) + count, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt.astype(np.int32))
    for _ in range(count):
        generator.generate_next_token()
    return np.array(generator.get_sequence(0))


def package(graph: Path, checkpoint: Path, out: Path, end: int) -> Path:
    """The captured graph for the CPU with the configuration that GenAI reads; `end` is the token that ends a text."""
    model = ir.load(build(graph, checkpoint, out, "cpu", genai.equal_widths))
    config = json.loads((checkpoint / "config.json").read_text("utf-8")) | {"eos_token_id": end}
    (out / "genai_config.json").write_text(json.dumps(genai.genai_config(model.graph, config, {})))
    return out


def generates(graph: Path, checkpoint: Path, out: Path, expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share of greedy tokens that differ from those of Transformers. Raises UnsupportedError for an encoder."""
    if "greedy" not in expected:
        raise UnsupportedError(
            "It generates no text.", "It is an encoder.", "Use package_onnx in place of package_genai."
        )
    tokens, prompt = expected["greedy"], int(expected["prompt"])
    unused = min({*range(len(tokens) + 1)} - {*tokens.tolist()})  # as the text's end, which then does not come early
    made = generate(package(graph, checkpoint, out, unused), tokens[:prompt], len(tokens) - prompt)
    return {"greedy": float(np.mean(made != tokens))}


def _compare(folder: Path, device: str) -> dict[str, float]:
    graph = folder / "graph.onnx"
    if device == "int4":
        return _quantised(folder)
    with np.load(folder / "expected.npz") as expected:
        if device == "genai":
            return generates(graph, folder, folder / device, expected)
        return compare(build(graph, folder, folder / device, device), expected, padded=device == "portable")


def _computed(file: Path, expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model computes in place of what is `expected`."""
    if "ids" not in expected:
        return encoded(file, expected)
    ids = expected["ids"]
    return {"logits": decoded(Runner(file), ids, np.ones_like(ids), ids.shape[1] - STEPS)}


def check(folder: str, graph: str, device: str) -> dict[str, float]:
    """Compare the graph that a target's passes made of the twin in `folder` with Transformers, or, if it is quantised, with
    the portable graph over weights rounded in numpy."""
    place, model, stored = Path(folder), ir.load(graph), Path(graph).parent / FILE
    quantised = nodes(model.graph, "QuantizedWeight")
    with np.load(place / "expected.npz") as arrays:
        expected = dict(arrays)
    if quantised:
        rounded = rounded_checkpoint(model, place, place / "rounded", stored)
        expected |= _computed(build(place / "graph.onnx", rounded, place / "reference", "portable"), expected)
    for node in nodes(model.graph, "MatMulNBits", "QMoE"):  # integer activations would hide what is looked for
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    (place / "built").mkdir(exist_ok=True)
    assemble(model, device, place, place / "built", lambda done, total: None, stored)
    return compare(place / "built" / "model.onnx", expected, padded=False)


def _quantised(folder: Path) -> dict[str, float]:
    """The CPU's graph with all weights at 4 bits, checked as a target's."""
    model = ir.load(folder / "graph.onnx")
    optimize(model, "cpu")
    if not quantize(model.graph, dict.fromkeys(("linear", "lm_head", "experts"), 4), 16, True, 1):
        raise UnsupportedError(
            "It has nothing to quantise.", "No matrix product reads a weight as it is stored.", "Leave it as it is."
        )
    (folder / "int4").mkdir(exist_ok=True)
    canonical.save(model, folder / "int4" / "graph.onnx")
    return check(str(folder), str(folder / "int4" / "graph.onnx"), "cpu")


def parity(folder: str, names: list[str], devices: list[str]) -> dict[str, dict[str, Any]]:
    """Build and compare every twin of `names` for every one of `devices`."""
    out: dict[str, dict[str, Any]] = {}
    for name in names:
        place = Path(folder, name)
        for device in devices:
            call = functools.partial(_compare, place, device)
            out.setdefault(name, {})[device] = isolated(call, log=str(place / f"{device}.log"), seconds=SECONDS)
        print(f"{len(out):4} of {len(names)} compared: {name}", flush=True)
    return out


if __name__ == "__main__":
    serve(lambda action: check(**action) if "graph" in action else parity(**action))
