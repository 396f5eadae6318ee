"""Does a decoder compute what Transformers computes: a prompt at once, token by token, and a padded batch.

{"folder", "names"} -> name -> device -> {"result": errors} | {"refused"} | {"failed"}, over twins as sweep.py makes them.
{"folder", "graph", "device"} -> errors of one twin's graph after a target's passes.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime import InferenceSession, SessionOptions

from onnxmake.model import genai
from onnxmake.model.assemble import assemble
from onnxmake.model.emulate import rounded_checkpoint
from onnxmake.model.graph import nodes
from onnxmake.model.isolated import isolated
from onnxmake.model.optimize import optimize
from onnxmake.model.serve import serve

STEPS = 16  # decoded one by one behind the prompt
LAST = 4  # of the padded batch
PROMPT = 24  # tokens that generation starts with
DEVICES = ("portable", "cpu", "cuda", "directml", "genai")  # all run by the CPU provider, as far as it has their ops
SECONDS = 240.0


class Runner:
    """A bound decoder as a function of tokens, with its states."""

    def __init__(self, file: Path):
        options = SessionOptions()
        options.log_severity_level = 3
        self.session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.past = [n.name.replace("present", "past_key_values") for n in self.session.get_outputs()[1:]]

    def empty(self, batch: int) -> list[np.ndarray]:
        """States before the first token: no keys and values, and zeros for what has a fixed size."""
        sizes = {"past": 0, "batch": batch}
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        inputs = [self.inputs[name] for name in self.past]
        return [np.zeros([sizes.get(d, d) for d in i.shape], types[i.type]) for i in inputs]

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


def compare(file: Path, expected: Mapping[str, np.ndarray], padded: bool = True) -> dict[str, float]:
    """Largest difference to the expected logits, relative to the largest of them: of prefill, decode and padded batch.

    Infinite where the model computes NaN.
    """
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
    return {name: float(value) if np.isfinite(value) else float("inf") for name, value in out.items()}


def build(graph: Path, checkpoint: Path, out: Path, device: str) -> Path:
    """The captured graph for the device, with the checkpoint's weights. Returns the model's file."""
    model = ir.load(graph)
    optimize(model, device)
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
    model = ir.load(graph)
    optimize(model, "cpu")
    genai.equal_widths(model.graph)
    out.mkdir(exist_ok=True)
    assemble(model, "cpu", checkpoint, out, lambda done, total: None)
    config = json.loads((checkpoint / "config.json").read_text("utf-8")) | {"eos_token_id": end}
    (out / "genai_config.json").write_text(json.dumps(genai.genai_config(model.graph, config, {})))
    return out


def generates(graph: Path, checkpoint: Path, out: Path, expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share of greedy tokens that differ from those of Transformers."""
    tokens, count = expected["greedy"], len(expected["greedy"]) - PROMPT
    unused = min({*range(len(tokens) + 1)} - {*tokens.tolist()})  # as the text's end, which then does not come early
    made = generate(package(graph, checkpoint, out, unused), tokens[:PROMPT], count)
    return {"greedy": float(np.mean(made != tokens))}


def _compare(folder: Path, device: str) -> dict[str, float]:
    graph = folder / "graph.onnx"
    with np.load(folder / "expected.npz") as expected:
        if device == "genai":
            return generates(graph, folder, folder / device, expected)
        return compare(build(graph, folder, folder / device, device), expected, padded=device == "portable")


def check(folder: str, graph: str, device: str) -> dict[str, float]:
    """Compare the graph that a target's passes made of the twin in `folder` with Transformers, or, if it is quantised, with
    the portable graph over weights rounded in numpy."""
    place, model = Path(folder), ir.load(graph)
    quantised = nodes(model.graph, "QuantizedWeight")
    with np.load(place / "expected.npz") as arrays:
        expected = dict(arrays)
    if quantised:
        rounded = rounded_checkpoint(model, place, place / "rounded")
        decoder, ids = Runner(build(place / "graph.onnx", rounded, place / "reference", "portable")), expected["ids"]
        expected["logits"] = decoded(decoder, ids, np.ones_like(ids), ids.shape[1] - STEPS)
    for node in nodes(model.graph, "MatMulNBits", "QMoE"):  # integer activations would hide what is looked for
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    (place / "built").mkdir(exist_ok=True)
    assemble(model, device, place, place / "built", lambda done, total: None)
    return compare(place / "built" / "model.onnx", expected, padded=False)


def parity(folder: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Build and compare every twin of `names` for every device."""
    out: dict[str, dict[str, Any]] = {}
    for name in names:
        place = Path(folder, name)
        for device in DEVICES:
            call = functools.partial(_compare, place, device)
            out.setdefault(name, {})[device] = isolated(call, log=str(place / f"{device}.log"), seconds=SECONDS)
        print(f"{len(out):4} of {len(names)} compared: {name}", flush=True)
    return out


if __name__ == "__main__":
    serve(lambda action: check(**action) if "graph" in action else parity(**action))
