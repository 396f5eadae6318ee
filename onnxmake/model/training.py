"""Train low-rank adapters of a model's linear layers to continue a text: AdamW, a seeded order, and a state to go on from.

Results are equal on machines whose float32 products are equal; elsewhere as good, and not the same numbers.
"""

import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from onnxmake.errors import UnsupportedError
from onnxmake.model.progress import progress

STATE = "training.pt"
NORM = 1.0  # of the gradients, at most
SAID = 10  # steps between two lines of the log


def batch(rows: np.ndarray, step: int, size: int, seed: int) -> np.ndarray:
    """The rows of a step [size, tokens]: all of them in a seeded order, then all in another."""
    places = np.arange(step * size, (step + 1) * size)
    rounds = {turn: np.random.default_rng((seed, turn)).permutation(len(rows)) for turn in {*(places // len(rows))}}
    return rows[[rounds[place // len(rows)][place % len(rows)] for place in places]]


def rate(step: int, steps: int, warmup: int, schedule: str) -> float:
    """By what the learning rate is multiplied: rising to 1 over the first `warmup` steps, then as the schedule says."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup)) if schedule == "cosine" else 1.0


def train(model: PeftModel, rows: np.ndarray, o: Any, state: Path) -> None:
    """Tune the model's adapters on rows [N, tokens], in place. `o`: the options of the pass `finetune`.

    Every `save_steps` the state is written into the folder `state`, and one that is there is gone on from: the result is the same.
    Raises UnsupportedError where training diverges.
    """
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.manual_seed(o.seed)
    tuned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr=o.learning_rate, weight_decay=o.weight_decay)
    model.train()
    size = o.batch_size * o.accumulate
    for step in range(_resume(state / STATE, tuned, optimizer), o.max_steps):
        for group in optimizer.param_groups:
            group["lr"] = o.learning_rate * rate(step, o.max_steps, o.warmup_steps, o.schedule)
        total = 0.0
        for part in np.split(batch(rows, step, size, o.seed), o.accumulate):
            ids = torch.from_numpy(part)
            loss = model(input_ids=ids, labels=ids).loss / o.accumulate
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise _diverged(step)
        torch.nn.utils.clip_grad_norm_(tuned, NORM)
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if done % SAID == 0 or done == o.max_steps:
            print(f"step {done}: loss {total:.4f}", flush=True)
        if done % o.save_steps == 0 and done < o.max_steps:
            _save(state / STATE, done, tuned, optimizer)
        progress(done, o.max_steps)


def _save(file: Path, step: int, tuned: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    part = file.with_suffix(".part")
    values = [p.data for p in tuned]
    torch.save(
        {"step": step, "tuned": values, "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}, part
    )
    part.replace(file)


def _resume(file: Path, tuned: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """The step to go on with; a state that is damaged is none."""
    if not file.exists():
        return 0
    try:
        found: Mapping[str, Any] = torch.load(file, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        print(f"the saved state cannot be read, and training begins anew: {error}", flush=True)
        return 0
    for parameter, value in zip(tuned, found["tuned"], strict=True):
        parameter.data.copy_(value)
    optimizer.load_state_dict(found["optimizer"])
    torch.set_rng_state(found["random"])
    print(f"goes on after step {found['step']}", flush=True)
    return found["step"]


def _diverged(step: int) -> UnsupportedError:
    return UnsupportedError(
        f"The loss of step {step + 1} is not a number.",
        "The learning rate is too high, or the checkpoint's training diverged before.",
        "Lower learning_rate, or give it warmup_steps.",
    )
