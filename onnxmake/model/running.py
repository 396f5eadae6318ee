"""What a bound model computes: a decoder of a prompt at once and token by token, an encoder of each input."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxmake.model.feeds import empty
from onnxmake.model.session import TYPES, open_session

STEPS = 16  # decoded one by one behind the prompt
LAST = 4  # of the padded batch
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


def encoded(file: Path, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs N.out.NAME of an encoder for the inputs N.in.NAME of `given`."""
    session = open_session(file)
    out: dict[str, np.ndarray] = {}
    names = [output.name for output in session.get_outputs()]
    for call in sorted({name.split(".")[0] for name in given}):
        feed = {i.name: given[f"{call}.in.{i.name}"].astype(TYPES[i.type]) for i in session.get_inputs()}
        out |= {f"{call}.out.{name}": value for name, value in zip(names, session.run(names, feed))}
    return out


def computed(file: Path, given: Mapping[str, np.ndarray], padded: bool = False) -> dict[str, np.ndarray]:
    """What the model makes of the inputs among `given`, [rows, channels] by the names of `wanted`."""
    if "logits" not in given:
        return _outputs(encoded(file, given), given)
    decoder, ids = Runner(file), given["ids"]
    ones, prompt = np.ones_like(ids), ids.shape[1] - STEPS
    out = {
        "prefill": decoder(ids, ones, decoder.empty(1))[0][0],
        "decode": decoded(decoder, ids, ones, prompt)[0, prompt:],
    }
    if padded:
        ids, mask = given["batch_ids"], given["batch_mask"]
        out["padded"] = decoded(decoder, ids, mask, ids.shape[1] - LAST)[mask.astype(bool)]
    return out


def wanted(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What Transformers made of the same inputs, [rows, channels]: a decoder's logits in prefill, decode and a padded batch;
    each output of an encoder, for one input and for a batch."""
    if "logits" not in arrays:
        return _outputs(arrays, arrays)
    logits, mask = arrays["logits"][0], arrays["batch_mask"].astype(bool)
    return {"prefill": logits, "decode": logits[-STEPS:], "padded": arrays["batch_logits"][mask]}


def _outputs(made: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """N.out.NAME as NAME and the call; without what padding itself becomes, which means nothing."""
    out = {}
    for key, value in made.items():
        call, side, name = key.split(".", 2)
        if side == "out":
            mask = given.get(f"{call}.in.attention_mask")
            kept = ... if mask is None or mask.shape != value.shape[:2] else mask.astype(bool)
            out[f"{name} {CALLS[int(call)]}"] = value[kept]
    return out
