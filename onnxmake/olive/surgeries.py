"""Olive's surgeons: the options of `surgery` that do the same, nothing where the graph has no need of it, or why there is none."""

from collections.abc import Callable, Mapping
from typing import Any

from onnxmake.olive.rules import WrongType, names, typed
from onnxmake.olive.told import Refusal

Take = Callable[[Mapping[str, Any]], dict[str, Any]]
DLA = "it is for one accelerator's compiler, which is no device here"
FUSED = "optimize makes the graph without it"


KEYS = {  # of those that have any
    **dict.fromkeys(("RenameInputs", "RenameOutputs"), ("old_names", "new_names")),
    **dict.fromkeys(("RemoveInputs", "RemoveOutputs", "ExposeOutputs"), ("names",)),
    "AddIntermediateTensorsToOutputs": ("intermediate_tensor_to_add",),
    "ReplaceAttentionMaskValue": ("threshold", "replacement"),
    "RemoveQDQ": ("keep_clip_after_inputs",),
    "RemoveRopeMultiCache": ("use_large_cache",),
}
OF_GENAI = {"RenameInputs", "RenameOutputs", "RemoveInputs", "RemoveOutputs"}  # not of a model that generates text


def _plain(name: str) -> Take:
    return lambda given: {"name": name}


def _renaming(name: str) -> Take:
    def take(given: Mapping[str, Any]) -> dict[str, Any]:
        old, new = (names(given.get(key)) for key in ("old_names", "new_names"))
        if len(old) != len(new):
            raise WrongType("as many new_names as old_names")
        return {"name": name, "names": dict(zip(old, new))}

    return take


def _naming(name: str, key: str = "names") -> Take:
    return lambda given: {"name": name, "values": names(given.get(key))}


def _without_clip(given: Mapping[str, Any]) -> dict[str, Any]:
    if typed(given.get("keep_clip_after_inputs", False), bool):
        raise Refusal("keep_clip_after_inputs keeps the ranges of inputs", "Leave keep_clip_after_inputs out.")
    return {"name": "remove_qdq"}


def _nothing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {}


SURGERIES: dict[str, Take | str] = {
    "RenameInputs": _renaming("rename_inputs"),
    "RenameOutputs": _renaming("rename_outputs"),
    "RemoveInputs": _naming("remove_inputs"),
    "RemoveOutputs": _naming("remove_outputs"),
    "ExposeOutputs": _naming("expose_outputs"),
    "AddIntermediateTensorsToOutputs": _naming("expose_outputs", "intermediate_tensor_to_add"),
    "ReplaceErfWithTanh": _plain("erf_to_tanh"),
    "DecomposeQuickGelu": _plain("quick_gelu_to_sigmoid"),
    "RMSNormToL2Norm": _plain("rms_norm_to_l2_norm"),
    "SimplifiedLayerNormToL2Norm": _plain("rms_norm_to_l2_norm"),
    "SimplifiedLayerNormToRMSNorm": _plain("rms_norm_to_primitives"),
    "MatMulAddToGemm": _plain("matmul_add_to_gemm"),
    "GemmToMatMulAdd": _plain("gemm_to_matmul_add"),
    "RemoveQDQ": _without_clip,
    "ReplaceAttentionMaskValue": lambda given: {
        "name": "soften_mask",
        "value": typed(given.get("replacement", -1e4), float),
    },
    **dict.fromkeys(
        ("InferShapes", "RemoveShapes", "RemoveInitializerFromInputs", "RemoveGidxFromMatMulNBits"), _nothing
    ),
    **dict.fromkeys(("DeduplicateNodes", "DeduplicateSubgraphInitializers", "RemoveMemcpy"), _nothing),
    **dict.fromkeys(
        ("TieWordEmbeddings", "ShareEmbeddingLmHead", "RemoveRopeMultiCache", "ReciprocalMulToDiv"), _nothing
    ),
    "ReorderInputs": "it counts inputs of Olive's graph; surgery reorder_inputs takes their names",
    "ZeroOutInput": "it names a node of Olive's graph",
    "QuantizeEmbeddingInt8": 'quantisers say it: embeddings = "int8"',
    "ExposeQuantizedOutput": "it is for outputs that are quantised",
    "DecomposeRotaryEmbedding": "rotary embeddings are the device's operators",
    "AttentionMaskToSequenceLengths": FUSED,
    "PowReduceSumPowDiv2LpNorm": FUSED,
    **dict.fromkeys(("PackedAttentionToLoopMHA", "PackedAttentionToPackedMHA"), FUSED),
    **dict.fromkeys(
        ("RenameInputDims", "RenameOutputDims"), "sizes have names of their own here; fix_shapes gives them numbers"
    ),
    **dict.fromkeys(
        (
            *("MatMulToTransposeConvTranspose", "RemoveIntermediarySqueezeAndUnsqueeze", "QDQToClip", "RemoveDeqLin"),
            *("Non4DModelInputs", "Non4DModelOutputs", "StandaloneReduceSum", "Gather", "GatherElements", "Flatten"),
            *("Non4DInitializers", "RemoveAllTensorValueShapes", "Non4DReshape", "Non4DExpand", "Non4DTranspose"),
            *("Non4DSlice", "Non4DLpNorm", "ReshapeReduceSum", "ReshapeClipReduceSum", "ReduceMax"),
        ),
        DLA,
    ),
}
