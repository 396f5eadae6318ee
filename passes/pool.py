"""Sentence embeddings from the last layer's states: one vector for each text. Comes before optimize.

Invariant: padding has no say; a further output, sentence_embedding [batch, width], beside last_hidden_state. Other outputs go.
"""

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxmake.errors import PassError
from onnxmake.model.graph import prune
from onnxmake.model.pooling import POOLS, normalized

ENVIRONMENT = "cpu"


@dataclass(frozen=True)
class Options:
    mode: Literal["mean", "cls", "max", "last"] = "mean"  # as the checkpoint's 1_Pooling/config.json says
    normalize: bool = True  # to length 1, where its modules.json has a Normalize module


def rewrite(model: ir.Model, o: Options) -> int:
    graph = model.graph
    states = next((v for v in graph.outputs if v.name == "last_hidden_state"), None)
    mask = next((v for v in graph.inputs if v.name == "attention_mask"), None)
    if states is None or mask is None:
        raise PassError(
            "There are no states of tokens to pool.",
            "The graph is not of a text encoder, or has a head of its own.",
            'Write part = "base" under export, which leaves the head away.',
        )
    end = ir.node("Identity", [states])
    graph.append(end)
    pooled = POOLS[o.mode](end, states, mask)
    out = normalized(end, pooled) if o.normalize else pooled
    out.name = "sentence_embedding"
    graph.remove(end, safe=True)
    graph.outputs[:] = [out, states]
    prune(graph)
    return 1
