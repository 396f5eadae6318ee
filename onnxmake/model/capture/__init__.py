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

from onnxmake.errors import UnsupportedError
from onnxmake.model.capture import attention, layers, modules, stamp, tidy
from onnxmake.model.capture.weightless import weightless_causal_lm
from onnxmake.model.graph import DOMAIN

IGNORED = [r"\.rotary_emb\.inv_freq$"]  # buffers that old checkpoints hold and Transformers computes


def load_config(architecture: Mapping) -> transformers.PreTrainedConfig:
    """The Transformers config of an architecture, refused where it names none or asks for code from the checkpoint."""
    kind = architecture.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(
            f"config.json has model_type {kind!r}; Transformers {transformers.__version__} knows no such model.",
            "The model is newer than the torch environment, or runs its own remote code.",
            "Raise transformers in containers/torch/requirements.in and lock again; remote code is never run.",
        )
    config = transformers.CONFIG_MAPPING[kind].from_dict(dict(architecture))
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedError(
            f"Transformers {transformers.__version__} has no causal language model for model_type {kind!r}.",
            "The checkpoint is an encoder, a vision or a speech model.",
            "Choose a checkpoint of a text-generating model.",
        )
    return config


def _trace(config: transformers.PreTrainedConfig, tensors: Mapping[str, list[int]], whole: bool) -> ir.Model | None:
    """The graph of all layers; None where `whole` is off and the layers are too entangled to be stamped."""
    model = weightless_causal_lm(config, attention.NAME, tensors)
    path, stack = layers.find_layers(model) or ("", None)
    kind = list(range(config.num_hidden_layers)) if stack is None or whole else layers.kinds(config, stack)
    traced = layers.representatives(kind)
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    tied = set(model.all_tied_weights_keys)
    prefix = f"{model.base_model_prefix}."
    if len(traced) < len(kind):
        layers.keep_layers(model, path, stack, traced)
    decoder = attention.Decoder(model, traced)
    with torch.no_grad(), modules.semantic_modules(model):
        inputs, dynamic = attention.example_inputs(decoder)
        exported = torch.export.export(decoder, (), kwargs=inputs, dynamic_shapes=dynamic, strict=False)
    graph_model = torch.onnx.export(exported, dynamo=True, verbose=False, opset_version=21, optimize=False).model
    graph = graph_model.graph
    tidy.plain_dimensions(graph)
    tidy.constant_shapes(graph)
    tidy.weights_by_name(graph, {name for name, _ in decoder.named_parameters(remove_duplicate=False)})
    if len(traced) < len(kind) and not stamp.stamp(graph_model, f"model.{path}", kind, traced):
        return None
    names: dict[str, list[str]] = {}
    for group in aliases.values():  # a tied pair goes by the name of its source, then by the other
        ordered = sorted(group, key=lambda name: name in tied)
        ordered += [name.removeprefix(prefix) for name in ordered]
        names |= {f"model.{name}": ordered for name in group}
    tidy.checkpoint_names(graph, names, tensors, [*IGNORED, *(model._keys_to_ignore_on_load_unexpected or [])])
    return graph_model


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
