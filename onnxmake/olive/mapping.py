"""The table: what each pass of Olive, and each of its options, is here. Defaults are Olive's, options not named here are errors.

Names as of Olive 0.13; ALIASES has those of older workflows. `PASSES` have a counterpart, `REFUSED` have none.
"""

from collections.abc import Sequence
from typing import Any

from onnxmake.olive import border, combined, integers, scripted, training
from onnxmake.olive.entry import Entry
from onnxmake.olive.rules import Rule, Settings, each, groups, noted, only, quiet, text, to

NODES = "it names nodes of the graph that Olive makes, which are others here"
GLOBS = 'Say it by names of the checkpoint: keep = ["model.layers.*.mlp.down_proj"] in the quantiser.'
CALIBRATED = "Use OrtMixedPrecision: cast_calibrated keeps in float32 what overflows."
ACCURACY = to("quantize.accuracy_level", int)
SYMMETRIC = to("quantize.symmetric", bool)
BITS = to("quantize.bits", int)
UNTIED: Settings = {"quantize.lm_head": "keep", "quantize.embeddings": "keep"}
NO_NODES = only([None, []], NODES, GLOBS)
FULLY = noted("layers are calibrated one after the other, each behind quantised ones", [None, False])


def _block(method: str, size: int, **settings: Any) -> Settings:
    return {"quantize.method": method, "quantize.bits": 4, "quantize.block_size": size} | {
        f"quantize.{name}": value for name, value in settings.items()
    }


COMMON: dict[str, Rule] = {  # of every pass
    **dict.fromkeys(
        ("save_as_external_data", "all_tensors_to_one_file", "external_data_name", "size_threshold"), quiet()
    ),
    "convert_attribute": quiet(bool),
    "user_script": combined.script,
    "script_dir": quiet(),
    "dataloader_func": combined.script,
}
DTYPES = {"float32": {}, "float16": {"cast.dtype": "fp16"}, "bfloat16": {"cast.dtype": "bf16"}, "auto": {}}
WHOLE_MODEL = only([None, False, []], "half a model is no target", "Build the whole one.")
ALGORITHMS: dict[Any, Settings] = {
    "default": {},
    "rtn": {},
    "rtn_last": {"quantize.lm_head": "int8"},
    "k_quant": {"quantize.method": "kquant"},
    "k_quant_last": {"quantize.method": "kquant", "quantize.lm_head": "int8"},
    "k_quant_mixed": {"quantize.method": "kquant", "allocate_bits.average_bits": 5.0},
    "k_quant_linear": {"quantize.method": "kquant", "quantize.lm_head": "int8"},
}
BUILDER: dict[str, Rule] = {  # of ModelBuilder, in its config or in its extra_options
    "int4_algo_config": each(ALGORITHMS),
    "int4_block_size": groups("quantize.block_size"),
    "int4_is_symmetric": SYMMETRIC,
    "int4_accuracy_level": ACCURACY,
    "int4_op_types_to_quantize": combined.op_types,
    "int4_nodes_to_exclude": NO_NODES,
    "int4_tied_embeddings": combined.tied,
    "shared_embeddings": combined.tied,
    "use_8bits_moe": each({True: {"quantize.experts": "int8"}, False: {}}),
    "use_cuda_bf16": combined.cuda_bf16,
    "use_qdq": noted("products stay MatMulNBits, which every device here has", [None, False]),
    "use_webgpu_fp32": noted("activations are float16 there; without cast they are float32", [None, False]),
    "exclude_embeds": WHOLE_MODEL,
    "exclude_lm_head": WHOLE_MODEL,
    "include_hidden_states": only(
        [None, False], "the states are no output", "Use the surgery expose_outputs behind packaging."
    ),
    "enable_cuda_graph": noted("graph capture is an option of the session, for genai_config.json", [None, False]),
    "prune_lm_head": quiet(),
    "filename": noted("the model's file is model.onnx", [None, "model.onnx"]),
    "hf_token": quiet(),
    "hf_remote": quiet(),
}
LATER: dict[str, Rule] = {  # names of a later model builder
    **{name.removeprefix("int4_"): rule for name, rule in BUILDER.items() if name.startswith("int4_")},
    "matmul_mixed_precision": combined.mixed_matmuls,
    "moe_quant_type": each({name: {"quantize.experts": name} for name in ("int2", "int4", "int8")}),
    "qmoe_block_size": noted("experts have the block size of all the others"),
    "enable_dml_graph": noted("graph capture is an option of the session, for genai_config.json", [None, True]),
    "enable_webgpu_graph": noted("graph capture is an option of the session, for genai_config.json", [None, False]),
    **dict.fromkeys(("fuse_qkv", "disable_qkv_fusion", "fuse_qk_norm_gqa", "windowed_kv_cache"), quiet()),
}
ROUNDING = (
    *(name for name in (*BUILDER, *LATER) if name.startswith("int4_") or f"int4_{name}" in BUILDER),
    *("matmul_mixed_precision", "use_cuda_bf16", "use_8bits_moe", "moe_quant_type", "qmoe_block_size"),
)
GENERATION = noted("what generation does is genai_config.json's, from the checkpoint's own settings")
UNROUNDED = (
    BUILDER
    | LATER
    | dict.fromkeys(
        ROUNDING, noted("precision is no integer: it says how weights would be rounded, and none are", [None])
    )
)
FLOATS = Entry(  # of ModelBuilder with a precision that rounds nothing
    {"package_genai": True},
    {
        "precision": combined.precision,
        **UNROUNDED,
        "extra_options": combined.extra(UNROUNDED),
        "metadata_only": quiet(bool),
        "search": GENERATION,
    },
)
GENAI_CONFIG = Entry(  # of a converted model: package_genai writes it, and nothing is rounded
    {"package_genai": True},
    dict.fromkeys(("precision", "metadata_only", "search", "extra_options", *BUILDER, *LATER), quiet()),
)
FLOAT: dict[str, Rule] = {
    "min_positive_val": noted("constants are rounded, not clipped", [None, 1e-7]),
    "max_finite_val": noted("constants are rounded, not clipped", [None, 10000.0]),
    "keep_io_types": quiet(),
    "use_symbolic_shape_infer": quiet(bool),
    **dict.fromkeys(
        ("op_block_list", "op_include_list", "node_block_list", "node_include_list"),
        only([None, []], NODES, CALIBRATED),
    ),
}
TUNED: dict[str, Rule] = {
    **dict.fromkeys(("lm_head", "embeds"), quiet(bool)),
    "bits": BITS,
    "group_size": groups("quantize.block_size"),
    "sym": SYMMETRIC,
    "overrides": quiet(dict),
}
GPTQ: dict[str, Rule] = {
    "damp_percent": to("quantize.damping", float),
    "desc_act": each({True: {"quantize.act_order": True}, False: {}, None: {}}),
    "data_config": text("quantize.calibration"),
    "static_groups": quiet(bool),
    "true_sequential": FULLY,
}
INT8: dict[str, Rule] = {  # of what quantises activations, too
    **dict.fromkeys(("precision", "weight_type"), integers.weights),
    **dict.fromkeys(("op_types_to_quantize", "op_types_to_exclude"), quiet()),
    "nodes_to_quantize": NO_NODES,
    "nodes_to_exclude": NO_NODES,
    "per_channel": noted("weights have a scale for each channel", [None, True]),
    "quant_preprocess": quiet(bool),
    **dict.fromkeys(("user_script", "script_dir", "dataloader_func"), combined.own_script),
    **dict.fromkeys(scripted.OLDER, quiet()),  # what dataloader_func is called with
    "activation_symmetric": noted("activations have a zero point", [None, False]),
    "weight_symmetric": noted("weights are symmetric", [None, True]),
    "extra_options": noted("extra_options are of onnxruntime's quantiser", [None, {}]),
    "quant_mode": quiet(str),
    "calibrate_method": quiet(str),
    "data_config": quiet(),
    "reduce_range": quiet(bool),
    "calibration_providers": quiet(),
    "quant_format": noted("the form is QDQ", [None, "QDQ"]),
    "activation_type": integers.activations,
    "min_real_range": noted("ranges are those seen"),
    "tensor_quant_overrides": only([None, {}], NODES, GLOBS),
    **dict.fromkeys(("prepare_qdq_config", "prepare_qnn_config"), quiet(bool)),
    "MatMulConstBOnly": quiet(bool),  # products of two activations stay as they are
}
TRAINED: dict[str, Rule] = {
    "train_data_config": training.training_text,
    "eval_data_config": noted("doit check evaluates"),
    "r": to("finetune.rank", int),
    "alpha": to("finetune.alpha", float),
    "lora_r": to("finetune.rank", int),
    "lora_alpha": to("finetune.alpha", float),
    "eval_dataset_size": noted("doit check evaluates"),
    "lora_dropout": to("finetune.dropout", float),
    "target_modules": training.modules,
    "torch_dtype": training.dtype,
    "training_args": training.training,
    "modules_to_save": only([None, []], "adapters of linear layers are tuned, nothing else", "Leave it out."),
    "double_quant": quiet(),
    "quant_type": noted("QLoRA's base has 4 bits of its own kind", ["nf4"]),
    **dict.fromkeys(
        ("device_map", "allow_tf32", "ephemeral_gpu_offload", "compute_dtype", "save_quant_config"), quiet()
    ),
}


SWITCH = (False, True)
SEARCHED: dict[str, Sequence[Any]] = {"precision": ("int8", "uint8"), "per_channel": SWITCH, "reduce_range": SWITCH}
CALIBRATION: dict[str, Sequence[Any]] = {
    "calibrate_method": ("MinMax", "Entropy", "Percentile"),
    "quant_format": ("QDQ", "QOperator"),
}


def _tuning(method: str) -> Entry:
    rates = {"rank": 64, "alpha": 16.0, "dropout": 0.05, "dtype": "bf16", "method": method}
    rates |= {"tokens": 1024, "batch_size": 8, "schedule": "constant", "warmup_steps": 0}
    settings: Settings = {f"finetune.{name}": value for name, value in rates.items()}
    return Entry(settings, TRAINED, training.steps, searched={"r": (16, 32, 64)})


PASSES: dict[str, Entry] = {
    # a checkpoint becomes a graph
    "ModelBuilder": Entry(
        {"package_genai": True},
        {
            "precision": combined.precision,
            **BUILDER,
            **LATER,
            "extra_options": combined.extra(BUILDER | LATER),
            "metadata_only": quiet(bool),
            "search": GENERATION,
        },
        combined.with_int8,
        searched={
            "int4_block_size": (32, 64, 128),
            "int4_is_symmetric": (True, False),
            "int4_algo_config": ("default", "rtn", "k_quant_mixed", "k_quant_last"),
        },
        instead=lambda options: (
            GENAI_CONFIG if options.get("metadata_only") is True else None if combined.rounds(options) else FLOATS
        ),
    ),
    "MobiusBuilder": Entry(
        {},
        {
            "precision": each({"fp32": {}, "fp16": DTYPES["float16"], "bf16": DTYPES["bfloat16"]}),
            "exporter_func": combined.script,
            "exporter_config": quiet(),
            "components_to_export": WHOLE_MODEL,
        },
    ),
    "OnnxConversion": Entry(
        {},
        {
            "torch_dtype": each({None: {}, **DTYPES}),
            "target_opset": combined.opset,
            "dynamic": only([None, True], "graphs take any length", "Use DynamicToFixedShape behind it."),
            **dict.fromkeys(
                ("use_dynamo_exporter", "device", "parallel_jobs", "merge_adapter_weights", "optimize"), quiet()
            ),
            **dict.fromkeys(("input_names", "input_shapes", "output_names"), noted(border.NAMES, [None, []])),
            **dict.fromkeys(("input_types", "dynamic_axes"), quiet()),
            "past_key_value_name": quiet(str),
            "save_metadata_for_token_generation": quiet(bool),
        },
        lambda options, place: {} if options.get("torch_dtype") else dict(DTYPES.get(place.loaded, {})),
    ),
    "OptimumConversion": Entry(
        {},
        {
            "fp16": each({True: DTYPES["float16"], False: {}}),
            "target_opset": combined.opset,
            "components": noted("one graph reads prompts and goes on from them"),
            "device": quiet(str),
            "extra_args": noted("extra_args are of Optimum's exporter", [None, {}]),
        },
    ),
    "OptimumMerging": Entry({}, {"strict": quiet(bool)}),
    # graphs
    "OrtTransformersOptimization": Entry(
        {},
        {
            **dict.fromkeys(
                ("model_type", "num_heads", "num_key_value_heads", "hidden_size", "use_gpu", "input_int32"), quiet()
            ),
            "optimization_options": noted("optimize fuses what the device has"),
            "opt_level": combined.level,
            "only_onnxruntime": quiet(bool),
            "float16": quiet(bool),
            "keep_io_types": quiet(bool),
            "use_gqa": quiet(bool),
            **dict.fromkeys(
                ("force_fp32_ops", "force_fp32_nodes", "force_fp16_inputs"), only([None, [], {}], NODES, CALIBRATED)
            ),
        },
        border.half_if_asked,
    ),
    "OnnxPeepholeOptimizer": Entry(
        {},
        dict.fromkeys(
            (
                *("onnxscript_optimize", "onnxoptimizer_optimize", "fuse_reshape_operations"),
                *("fix_com_microsoft_opset", "cast_chain_elimination"),
            ),
            quiet(bool),
        ),
    ),
    **dict.fromkeys(("OnnxScriptFusion", "OnnxCastChainElimination"), Entry()),
    "OnnxQuantizationPreprocess": Entry(
        {}, dict.fromkeys(("skip_optimization", "skip_onnx_shape", "skip_symbolic_shape"), quiet(bool))
    ),
    "GraphSurgeries": Entry({}, {"surgeries": combined.surgeries, "remove_duplicate_initializers": quiet(bool)}),
    "DynamicToFixedShape": Entry(
        {}, dict.fromkeys(("dim_param", "dim_value", "input_name", "input_shape"), quiet()), border.shapes
    ),
    "OnnxIODataTypeConverter": Entry(
        {}, dict.fromkeys(("name_pattern", "source_dtype", "target_dtype"), quiet()), border.border
    ),
    "OnnxOpVersionConversion": Entry(
        {"upgrade_opset.opset": 21, "upgrade_opset.may_skip": True},
        {"target_opset": to("upgrade_opset.opset", int)},
        combined.newest,
    ),
    "MatMulNBitsToQDQ": Entry(
        {},
        {
            **dict.fromkeys(("use_transpose_op", "use_int4", "use_signed_int", "add_zero_point"), quiet(bool)),
            "nodes_to_exclude": quiet(),
        },
        lambda options, place: place.note("products stay MatMulNBits, which computes the same") or {},  # type: ignore[func-returns-value]
    ),
    # float types
    "OnnxFloatToFloat16": Entry({"cast.dtype": "fp16"}, FLOAT, border.border_kept),
    "OrtMixedPrecision": Entry(
        {"cast_calibrated.samples": 8},
        {
            "op_block_list": noted("what stays float32 is found on a text"),
            "atol": noted("what stays float32 is what overflows", [None, 1e-6]),
        },
    ),
    # weights, of a graph
    "OnnxBlockWiseRtnQuantization": Entry(
        _block("rtn", 128, accuracy_level=0),
        {
            "bits": BITS,
            "block_size": groups("quantize.block_size"),
            "is_symmetric": SYMMETRIC,
            "accuracy_level": ACCURACY,
            "axis": only([None, 0], "blocks lie along the input", "Leave axis out."),
            "nodes_to_exclude": NO_NODES,
            "nodes_to_include": NO_NODES,
        },
    ),
    "OnnxKQuantQuantization": Entry(
        _block("kquant", 32, accuracy_level=0, embeddings="keep"),
        {
            "bits": BITS,
            "block_size": groups("quantize.block_size"),
            "accuracy_level": ACCURACY,
            "customized_weight_config": only([None, {}], NODES, GLOBS),
            "nodes_to_exclude": NO_NODES,
        },
    ),
    "OnnxHqqQuantization": Entry(
        _block("hqq", 128, accuracy_level=0, embeddings="keep"),
        {
            "block_size": groups("quantize.block_size"),
            "accuracy_level": ACCURACY,
            "axis": only([None, 0], "blocks lie along the input", "Leave axis out."),
            "nodes_to_exclude": NO_NODES,
            "nodes_to_include": NO_NODES,
        },
    ),
    # weights, of a checkpoint
    "Rtn": Entry(_block("rtn", 128, symmetric=False), TUNED, combined.parts),
    "KQuant": Entry(_block("kquant", 128, symmetric=False), TUNED, combined.parts),
    "Gptq": Entry(_block("gptq", 128, symmetric=False), TUNED | GPTQ, combined.parts),
    "GptqQuantizer": Entry(
        _block("gptq", 128, symmetric=False),
        TUNED | GPTQ | dict.fromkeys(("layers_block_name", "outside_layer_modules", "inside_layer_modules"), quiet()),
        combined.parts,
    ),
    "GptqModel": Entry(
        _block("gptq", -1, symmetric=True, damping=0.05, act_order=True),
        TUNED
        | GPTQ
        | {
            "desc_act": to("quantize.act_order", bool),
            "damp_auto_increment": quiet(float),
            "mse": noted("scales are those of the largest value", [None, 0.0]),
            "device": quiet(str),
            "dynamic": only([None, {}], "settings by pattern are of GPTQModel", GLOBS),
            "rotation": only([None], "weights are not rotated", "Leave rotation out."),
        },
        combined.whole_rows,
    ),
    "AutoAWQQuantizer": Entry(
        _block("awq", 128, symmetric=False) | UNTIED,
        {
            "bits": BITS,
            "q_group_size": groups("quantize.block_size"),
            "zero_point": each({True: {"quantize.symmetric": False}, False: {"quantize.symmetric": True}}),
            "modules_to_not_convert": combined.not_converted,
            "export_compatible": WHOLE_MODEL,
            "data_config": text("quantize.calibration"),
            **dict.fromkeys(("input_model_dtype", "version", "duo_scaling"), quiet()),
        },
    ),
    "SelectiveMixedPrecision": Entry(
        {},
        dict.fromkeys(
            (
                *("algorithm", "bits", "group_size", "sym", "high_bits", "high_group_size", "high_sym", "ratio"),
                "kld_memory_mode",
            ),
            quiet(),
        ),
        combined.selective,
    ),
    # weights and activations
    "OnnxDynamicQuantization": Entry({}, INT8, integers.dynamic, SEARCHED),
    "OnnxStaticQuantization": Entry({}, INT8, integers.static, SEARCHED | CALIBRATION),
    "OnnxQuantization": Entry(
        {}, INT8, integers.dynamic_or_static, {"quant_mode": ("static", "dynamic")} | SEARCHED | CALIBRATION
    ),
    # adapters
    "LoRA": _tuning("lora"),
    "QLoRA": _tuning("qlora"),
    "DoRA": _tuning("dora"),
    "MergeAdapterWeights": Entry(),  # finetune merges unless its adapter has a name
    "ExtractAdapters": Entry(
        {"finetune.adapter": "adapter", "attach_adapters": True},
        {
            "adapter_type": each({"lora": {}, "dora": {}}),
            **dict.fromkeys(("make_inputs", "dynamic_lora_r", "optional_inputs", "save_format"), quiet()),
        },
    ),
    # afterwards
    "OnnxDiscrepancyCheck": Entry(
        {},
        {
            "reference_model_path": quiet(str),
            **dict.fromkeys(("genai_model_path", "generate_prompt", "generate_max_new_tokens"), quiet()),
            **dict.fromkeys(
                ("max_mae", "max_elements_above_0_1", "max_elements_above_0_01", "min_longest_common_tokens"),
                noted("doit check compares a twin with Transformers, and limits KL divergence and top-1 by [check]"),
            ),
        },
    ),
    "OrtSessionParamsTuning": Entry(
        {},
        {
            "intra_thread_num_list": combined.listed("tune_session.threads", int),
            "inter_thread_num_list": combined.listed("tune_session.inter_threads", int),
            "opt_level_list": combined.listed("tune_session.level", combined.LEVELS),
            "execution_mode_list": combined.listed("tune_session.execution", combined.EXECUTION),
            **dict.fromkeys(("data_config", "dataloader_func", "user_script"), combined.timed),
            **dict.fromkeys(("batch_size", "data_dir"), quiet()),
            "providers_list": quiet(),
            "provider_options_list": noted("provider options are the device's own", [None, {}, []]),
            "extra_session_config": noted("extra_session_config is not tried", [None, {}]),
            **dict.fromkeys(("device", "cpu_cores", "io_bind", "enable_cuda_graph", "trt_fp16_enable"), quiet()),
            **dict.fromkeys(("force_evaluate_other_eps", "enable_profiling"), quiet(bool)),
        },
        combined.session,
    ),
    "AddOliveMetadata": Entry(
        {},
        {
            "graph_name": quiet(str),
            "custom_metadata": noted("manifest.json holds what is known of the model", [None, {}]),
            "add_optimization_info": quiet(bool),
        },
    ),
}
ALIASES = {  # older name -> today's
    "OrtPerfTuning": "OrtSessionParamsTuning",
    "GenAIModelExporter": "ModelBuilder",
    "OnnxModelOptimizer": "OnnxPeepholeOptimizer",
    "OnnxMatMul4Quantizer": "OnnxBlockWiseRtnQuantization",
}
_QUALCOMM = ("it is of Qualcomm's SDK, which is no device here", 'Build for cpu; device = "cpu".')
_INTEL = (
    "it is of OpenVINO, which is no device here",
    "Build for cpu: OnnxConversion, and OnnxStaticQuantization for int8.",
)
_AMD = ("it is of AMD's NPU, which is no device here", "Build for cpu, or directml for its GPUs.")
_NVIDIA = ("it is of NVIDIA's ModelOpt", "Use AutoAWQQuantizer, or Gptq.")
_NEURAL = ("it is of Intel's Neural Compressor", "Use OnnxStaticQuantization or OnnxDynamicQuantization.")
_PARTS = ("a model is built whole", "Leave it out; one graph holds the model.")
_ROTATED = ("weights are not rotated", "Use Gptq with smaller blocks.")
_PRUNED = (
    "it changes the architecture's shapes or zeroes weights",
    "Choose a smaller checkpoint, or 2 bits with SelectiveMixedPrecision.",
)
_ADAPTERS = ("adapters are LoRA's and DoRA's", "Use LoRA.")
REFUSED: dict[str, tuple[str, str]] = {  # why, and what comes closest
    **dict.fromkeys(("QNNContextBinaryGenerator", "QNNConversion", "QNNModelLibGenerator", "QNNPreprocess"), _QUALCOMM),
    **dict.fromkeys(("QairtEncapsulation", "QairtGenAIBuilder", "QairtMHA2SHA", "QairtPipelinePass"), _QUALCOMM),
    **dict.fromkeys(("QairtPreparation", "AimetQuantization", "MixedPrecisionOverrides", "SNPEConversion"), _QUALCOMM),
    **dict.fromkeys(
        ("OpenVINOConversion", "OpenVINOEncapsulation", "OpenVINOIoUpdate", "OpenVINOQuantization"), _INTEL
    ),
    **dict.fromkeys(
        ("OpenVINOOptimumConversion", "OpenVINOQuantizationWithAccuracy", "OpenVINOWeightCompression"), _INTEL
    ),
    **dict.fromkeys(("QuarkQuantization", "VitisAIAddMetaData", "VitisGenerateModelLLM", "VitisGenerateModelSD"), _AMD),
    **dict.fromkeys(("VitisAIQuantization", "RyzenGenerateModelLLM"), _AMD),
    **dict.fromkeys(("NVModelOptGraphSurgery", "NVModelOptQuantization"), _NVIDIA),
    **dict.fromkeys(("IncDynamicQuantization", "IncQuantization", "IncStaticQuantization"), _NEURAL),
    **dict.fromkeys(("CaptureSplitInfo", "SplitModel", "ComposeOnnxModels", "CaptureLayerAnnotations"), _PARTS),
    **dict.fromkeys(("QuaRot", "SpinQuant"), _ROTATED),
    **dict.fromkeys(("SliceGPT", "SparseGPT"), _PRUNED),
    **dict.fromkeys(("LoHa", "LoKr", "LoftQ", "SDLoRA"), _ADAPTERS),
    "AutoClip": (
        "weights are not clipped before they are rounded",
        "Use KQuant or OnnxHqqQuantization, which search for scales.",
    ),
    "OnnxBnb4Quantization": ("NF4 and FP4 have no kernel on the devices here", "Use OnnxKQuantQuantization."),
    "EPContextBinaryGenerator": (
        "compiled contexts are a driver's",
        "Leave it out: the session compiles when it loads.",
    ),
    "StaticLLM": ("prompt and token graphs of fixed size are for NPUs", "Use DynamicToFixedShape."),
    "InputNCHWtoNHWC": ("images keep their layout", "Leave it out."),
    "AppendPrePostProcessingOps": (
        "pictures are prepared outside the graph",
        "Leave it out; the processor's configuration comes along.",
    ),
    "InsertBeamSearch": ("generation is GenAI's, outside the graph", "Use ModelBuilder."),
    "MoEExpertsDistributor": ("a model is built whole, for one device", "Leave it out."),
}
