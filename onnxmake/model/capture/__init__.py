"""Capture a causal language model from Transformers' own code as a semantic graph, without weights."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping

import onnx_ir as ir
import torch
import transformers
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, TopologicalSortPass

from onnxmake.model.capture import attention, experts, fold, layers, modules, sources, stamp, tidy
from onnxmake.model.capture.config import load_config
from onnxmake.model.capture.decoder import Decoder, example_inputs
from onnxmake.model.capture.weightless import weightless_causal_lm
from onnxmake.model.graph import DOMAIN

IGNORED = [r"\.rotary_emb\.inv_freq$"]  # buffers that old checkpoints hold and Transformers computes


def _trace(config: transformers.PreTrainedConfig, tensors: Mapping[str, list[int]], whole: bool) -> ir.Model | None:
    """The graph of all layers; None where `whole` is off and the layers are too entangled to be stamped."""
    model = weightless_causal_lm(config, attention.NAME, experts.NAME, tensors)
    path, stack = layers.find_layers(model) or ("", None)
    depth = getattr(config, "num_hidden_layers", 0)
    kind = list(range(depth)) if stack is None or whole else layers.kinds(config, stack)
    traced = layers.representatives(kind)
    tied = aliases(model)
    found = sources.sources(model, tensors)
    if len(traced) < len(kind):
        layers.keep_layers(model, path, stack, traced)
    decoder = Decoder(model)
    with torch.no_grad(), modules.semantic_modules(model):
        inputs, dynamic = example_inputs(decoder)
        exported = torch.export.export(decoder, (), kwargs=inputs, dynamic_shapes=dynamic, strict=False)
    graph_model = torch.onnx.export(exported, dynamo=True, verbose=False, opset_version=21, optimize=False).model
    graph = graph_model.graph
    tidy.plain_dimensions(graph)
    tidy.constant_shapes(graph)
    tidy.weights_by_name(graph, set(decoder.state_dict()))
    fold.constants(graph_model)
    fold.partial_rotations(graph)
    states = decoder.states
    if len(traced) < len(kind):
        states = stamp.stamp(graph_model, f"model.{path}", kind, traced, states)
        if states is None:
            return None
    tidy.checkpoint_names(graph, tied, found, tensors, [*IGNORED, *(model._keys_to_ignore_on_load_unexpected or [])])
    fold.transposed_weights(graph)
    tidy.name_states(graph, states)
    return graph_model


def aliases(model: transformers.PreTrainedModel) -> dict[str, list[str]]:
    """Parameter -> its names: a tied pair goes by the name of its source, then by the other."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    tied = set(model.all_tied_weights_keys)
    return {name: sorted(group, key=tied.__contains__) for group in groups.values() for name in group}


def capture(architecture: Mapping, tensors: Mapping[str, list[int]]) -> ir.Model:
    """The semantic graph of config.json's content `architecture`.

    Its weights referring to `tensors` (name -> shape) of the checkpoint.

    Inputs input_ids, attention_mask [batch, total], position_ids (int64) and past_key_values.N.{key,value} [batch,
    heads, past, width]; outputs logits [batch, sequence, vocabulary] and present.N.{key,value}; all float32. Raises
    UnsupportedError and CheckpointError.
    """
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        model = _trace(load_config(architecture), tensors, whole=False) or _trace(
            load_config(architecture), tensors, whole=True
        )
    TopologicalSortPass()(model)
    CommonSubexpressionEliminationPass()(model)
    tidy.constant_shapes(model.graph)
    tidy.name_values(model.graph)
    model.opset_imports[DOMAIN] = 1
    return model
