"""Semantic ops to a device's ops: one table per device, a file of that name with `TABLE`.

Op type -> function(node) that replaces the node.

| op | inputs -> outputs | attributes |
|---|---|---|
| Weight | -> tensor of the checkpoint, in the output's dtype | parts: names, one's rows after the other's; rows: the start and end of each, where not whole; transposed: the last two axes of each part; alternate: the first half of each matrix's rows between those of the second; offset: added; instead_of: the tensor that a step has changed to this |
| QuantizedWeight | -> packed uint8, scales, zero points (asymmetric only) | parts, shape, method (a key of kernels.METHODS; checkpoint: it holds them so), bits, block_size, symmetric; stored: the name of what a step has made of it |
| ChannelQuantizedWeight | -> int8 codes, float32 scales of the first axis | parts, shape, bits: 7 or 8 of a code; turned: codes [K, N] of a weight [N, K] |
| Linear | x [.., K], weight [N, K], bias [N]? -> x W^T + b | |
| RMSNorm | x, weight [K] -> x / rms(x) * (offset + weight) | epsilon, offset |
| LayerNorm | x [.., K], weight [K], bias [K]? -> (x - mean) / deviation * (offset + weight) + bias | epsilon, offset |
| RotaryTable | position_ids [B, S] -> cos, sin | frequencies [R/2], scale, positions; layout: [B, S, R] with each frequency in both halves, or in neighbours; or once, [B, S, R/2]; far_frequencies and threshold: those that hold once a position reaches threshold |
| RotaryEmbedding | x [B, H, S, D], cos, sin -> x, its first R channels rotated | interleaved: channel i with its neighbour, else with i + R/2; layout of cos and sin |
| Attention | q [B, H, S, D], k [B, KV, S, D], v [B, KV, S, Dv], past k?, past v?, mask [B, total]?, sinks [H]?, bias [B, 1 or H, S, total]? -> out [B, S, H, Dv], present k, present v (both only with a past) | scale, causal; window, softcap |
| LinearAttention | q, k [B, S, H, K], v [B, S, H, V], decay [B, S, H] or [B, S, H, K], state [B, H, K, V], beta [B, S, H]? -> out [B, S, H, V], state; computed in float32 | scale |
| Experts | hidden [T, H], index, weights [T, K], gate_up [E, 2I, H], down [E, H, I], their biases? -> [T, H]: the sum over K of weight x down(g sigmoid(alpha g) (u + beta)), g and u the two halves of gate_up(x) | alpha, beta, limit of g and u (0: none), interleaved: g and u alternate |

Attention sees positions where the mask is 1; if causal, none behind the query, the last of the keys being the last query's;
at most `window` back. LinearAttention, token by token: state *= exp(decay); state += k (beta (v - state^T k))^T, or k v^T
without beta; out = scale state^T q.

An entry named domain::op is for an op that the export or a quantiser writes, and the device takes in another form.
"""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.graph import DOMAIN

Device = str  # the name of a table here; the host offers those that there are
REFERENCES = {"Weight", "QuantizedWeight", "ChannelQuantizedWeight"}  # bound to bytes, not lowered


def _module(device: str) -> ModuleType:
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if device not in names:
        raise UnsupportedError(
            f"No table lowers for the device {device!r}.",
            "A device is a file in onnxmake/model/lowering, and none has that name.",
            f"Choose one of {', '.join(names)}, or add the file.",
        )
    return importlib.import_module(f"onnxmake.model.lowering.{device}")


def table(device: Device) -> Mapping[str, Callable[[ir.Node], None]]:
    return _module(device).TABLE


def provider_options(device: Device) -> Sequence[Mapping[str, Mapping[str, str]]]:
    """What genai_config.json holds as provider_options: provider -> its options, in the order of preference."""
    return _module(device).PROVIDER_OPTIONS


def lower(graph: ir.Graph, device: str, keep: Collection[str] = ()) -> int:
    """Replace every semantic op, but references and those in `keep`, by the device's ops. Returns how many."""
    return apply(graph, table(device), keep)


def apply(graph: ir.Graph, rules: Mapping[str, Callable[[ir.Node], None]], keep: Collection[str] = ()) -> int:
    """The same by the rules of a table. Users go before what they use: a rule may look back."""
    count, left = 0, REFERENCES | set(keep)
    for node in reversed(list(graph)):
        if node.graph is None or not any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue
        if node.domain == DOMAIN and node.op_type not in left:
            rules[node.op_type](node)
            count += 1
        elif rule := rules.get(f"{node.domain}::{node.op_type}"):
            rule(node)
    return count
