"""A built model as functions that evaluate in scripts written for Olive are given it: a session, and runs of it, on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxmake.model.olive_names import OliveModelHandler
from onnxmake.model.session import TYPES, on_cpu, open_session

PAST = "past_key_values"  # what names of states begin with


class Built(OliveModelHandler):
    """`model_path`: the file; `io_config`: names, shapes and types of inputs and outputs, as Olive has them."""

    def __init__(self, file: Path):
        self.model_path = str(file)
        self._session = on_cpu(open_session, file, "Leave out [[metric]], or evaluate a target for the CPU.")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.io_config = {
            "input_names": [i.name for i in inputs],
            "input_shapes": [list(i.shape) for i in inputs],
            "input_types": [TYPES.get(i.type, i.type) for i in inputs],
            "output_names": [o.name for o in outputs],
            "output_shapes": [list(o.shape) for o in outputs],
        }

    def prepare_session(self, *args: Any, **settings: Any) -> Any:
        """The session, whatever device and providers are asked for: a check runs on the CPU."""
        return self._session

    def run_session(self, session: Any, inputs: Mapping[str, Any], **settings: Any) -> list[np.ndarray]:
        """All outputs in order. What the model does not read is left out; what a decoder has seen nothing of is empty."""
        given = {name: np.asarray(value) for name, value in inputs.items()}
        batch = len(next(iter(given.values())))
        feed = {}
        for one in session.get_inputs():
            value = given.get(one.name)
            if value is None and one.name.startswith(PAST):
                value = np.zeros([d if isinstance(d, int) else batch if d == "batch" else 0 for d in one.shape])
            elif value is None and one.name == "position_ids" and "input_ids" in given:
                value = np.broadcast_to(np.arange(given["input_ids"].shape[1]), given["input_ids"].shape)
            if value is not None:
                feed[one.name] = value.astype(TYPES[one.type], copy=False)
        return session.run(None, feed)
