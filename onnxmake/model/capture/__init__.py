"""Capture a model from Transformers' own code as a semantic graph, without weights."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping

import onnx_ir as ir
import torch
import transformers
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, TopologicalSortPass

from onnxmake.model.architecture import is_decoder
from onnxmake.model.capture import attention, experts, fold, known, layers, modules, sources, stamp, tidy
from onnxmake.model.capture.config import load_config, model_class
from onnxmake.model.capture.decoder import Decoder
from onnxmake.model.capture.encoder import Encoder
from onnxmake.model.capture.weightless import weightless
from onnxmake.model.graph import DOMAIN

IGNORED = [
    r"\.rotary_emb\.inv_freq$",
    r"(^|\.)position_ids$",
]  # buffers of old checkpoints, which Transformers computes


def _trace(
    architecture: Mapping, part: str, tensors: Mapping[str, list[int]], whole: bool
) -> tuple[ir.Model, Decoder | Encoder] | None:
    """The graph of all layers, and what was traced; None where `whole` is off and the layers are too entangled to be
    stamped."""
    config = load_config(architecture)
    model = weightless(model_class(architecture, config), config, attention.NAME, experts.NAME, tensors)
    path, stack = layers.find_layers(model) or ("", None)
    kind = [] if stack is None else list(range(len(stack))) if whole else layers.kinds(config, stack)
    kept = layers.representatives(kind)
    tied = aliases(model)
    found = sources.sources(model, tensors)
    if len(kept) < len(kind):
        layers.keep_layers(model, path, stack, kept)
    traced = Decoder(model) if is_decoder(architecture) else Encoder(model, part)
    with torch.no_grad(), modules.semantic_modules(model):
        inputs, dynamic = traced.example_inputs()
        exported = torch.export.export(traced, (), kwargs=inputs, dynamic_shapes=dynamic, strict=False)
    known.fold(exported)
    graph_model = torch.onnx.export(exported, dynamo=True, verbose=False, opset_version=21, optimize=False).model
    graph, states = graph_model.graph, list(traced.states)
    pasts = [["batch", *("past" if axis == state.growing else None for axis in (1, 2))] for state in states]
    tidy.plain_dimensions(graph, [*(traced.dimensions[name] for name in traced.inputs), *pasts])
    tidy.constant_shapes(graph)
    tidy.weights_by_name(graph, {name for name, t in traced.state_dict().items() if t.is_floating_point()})
    fold.constants(graph_model)
    fold.partial_rotations(graph)
    if len(kept) < len(kind):
        states = stamp.stamp(graph_model, f"model.{path}", kind, kept, states)
        if states is None:
            return None
    unused = [*IGNORED, *traced.unread, *(model._keys_to_ignore_on_load_unexpected or [])]
    tidy.checkpoint_names(graph, tied, found, tensors, unused)
    fold.transposed_weights(graph)
    tidy.name_states(graph, states)
    return graph_model, traced


def aliases(model: transformers.PreTrainedModel) -> dict[str, list[str]]:
    """Parameter -> its names: a tied pair goes by the name of its source, then by the other."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    tied = set(model.all_tied_weights_keys)
    return {name: sorted(group, key=tied.__contains__) for group in groups.values() for name in group}


def capture(architecture: Mapping, tensors: Mapping[str, list[int]], part: str = "model") -> ir.Model:
    """The semantic graph of config.json's content `architecture`, its weights referring to `tensors` (name -> shape) of
    the checkpoint; all float32.

    Of a causal LM: inputs input_ids, attention_mask [batch, total], position_ids (int64) and past_key_values.N.{key,value}
    [batch, heads, past, width] or other states; outputs logits [batch, sequence, vocabulary] and present.N.{key,value}. Of
    another model its `part`: inputs as encoder.DIMENSIONS has them, outputs as Transformers names them. Raises
    UnsupportedError and CheckpointError.
    """
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        made = _trace(architecture, part, tensors, whole=False) or _trace(architecture, part, tensors, whole=True)
    model, traced = made
    TopologicalSortPass()(model)
    CommonSubexpressionEliminationPass()(model)
    tidy.constant_shapes(model.graph)
    tidy.name_values(model.graph, traced.inputs, traced.outputs)
    model.opset_imports[DOMAIN] = 1
    return model
