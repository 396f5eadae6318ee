"""Workflows in the forms that Olive's documentation has, and the passes that each is here."""

import copy
import json
from typing import Any

from onnxmake.olive import translate

COMMIT = "7ae557604adf67be50417f59c2c2f167def9a775"
MODEL = {"type": "HfModel", "model_path": "owner/model", "load_kwargs": {"revision": COMMIT}}
OLDER = {
    "type": "PyTorchModel",
    "config": {
        "hf_config": {
            "model_name": "owner/model",
            "task": "text-generation",
            "from_pretrained_args": {"revision": COMMIT, "trust_remote_code": True},
        }
    },
}


def flat(provider: str, device: str = "") -> dict[str, Any]:
    accelerator = {"execution_providers": [provider]} | ({"device": device} if device else {})
    return {"local_system": {"type": "LocalSystem", "accelerators": [accelerator]}}


def nested(provider: str, device: str) -> dict[str, Any]:
    accelerator = {"device": device, "execution_providers": [provider]}
    return {"local_system": {"type": "LocalSystem", "config": {"accelerators": [accelerator]}}}


CPU, CUDA, DML = "CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider"
WEBGPU = "WebGpuExecutionProvider"
LATENCY = {
    "common_evaluator": {
        "metrics": [
            {
                "name": "latency",
                "type": "latency",
                "sub_types": [{"name": "avg", "priority": 1, "metric_config": {"repeat_test_num": 7}}],
            }
        ]
    }
}
SEARCH = {
    "search_strategy": {
        "execution_order": "joint",
        "search_algorithm": "tpe",
        "search_algorithm_config": {"num_samples": 3, "seed": 4},
    },
    "evaluator": "common_evaluator",
    "host": "local_system",
    "target": "local_system",
    "cache_dir": "cache",
    "output_dir": "models",
}
CONVERSION = {
    "conversion": {"type": "OnnxConversion", "config": {"target_opset": 14}},
    "transformers_optimization": {
        "type": "OrtTransformersOptimization",
        "config": {"model_type": "gpt2", "opt_level": 99, "float16": False},
    },
}
GENERATING = ["export", "optimize", "package_genai"]

# name -> the workflow, the device, and its passes: names, or names with some of their options
WORKFLOWS: dict[str, tuple[dict[str, Any], str, list]] = {
    "tutorial: ModelBuilder, int4, CPU": (
        {
            "input_model": MODEL | {"task": "text-generation"},
            "systems": flat(CPU, "cpu"),
            "passes": {
                "builder": {
                    "type": "ModelBuilder",
                    "precision": "int4",
                    "int4_block_size": 32,
                    "int4_accuracy_level": 4,
                }
            },
            "target": "local_system",
            "host": "local_system",
            "log_severity_level": 1,
        },
        "cpu",
        ["export", "optimize", ("quantize_rtn", {"bits": 4, "block_size": 32, "accuracy_level": 4}), "package_genai"],
    ),
    "tutorial: conversion and optimisation, latency, joint search": (
        {
            "input_model": OLDER,
            "systems": nested(CPU, "cpu"),
            "evaluators": LATENCY,
            "passes": CONVERSION,
            "engine": SEARCH,
        },
        "cpu",
        GENERATING,
    ),
    "tutorial: the same on CUDA": (
        {
            "input_model": OLDER,
            "systems": nested(CUDA, "gpu"),
            "evaluators": LATENCY,
            "passes": CONVERSION,
            "engine": SEARCH,
        },
        "cuda",
        ["export", ("optimize", {"device": "cuda"}), "package_genai"],
    ),
    "tutorial: int8, optimisation level all": (
        {
            "input_model": OLDER,
            "systems": nested(CPU, "cpu"),
            "passes": {
                "conversion": {"type": "OnnxConversion"},
                "optimization": {"type": "OrtTransformersOptimization", "config": {"opt_level": "all"}},
                "quantization": {"type": "OnnxQuantization", "config": {"quant_mode": "dynamic", "reduce_range": True}},
            },
            "engine": {"target": "local_system"},
        },
        "cpu",
        ["export", "optimize", ("quantize_dynamic", {"bits": 7, "embeddings": "int8"}), "package_genai"],
    ),
    "ModelBuilder, int4, CUDA: float16 around it": (
        {
            "input_model": MODEL,
            "systems": flat(CUDA),
            "target": "local_system",
            "passes": {
                "m": {
                    "type": "modelbuilder",
                    "precision": "int4",
                    "extra_options": {
                        "int4_algo_config": "k_quant_last",
                        "int4_block_size": "128",
                        "hf_remote": "false",
                    },
                }
            },
        },
        "cuda",
        [
            "export",
            ("cast", {"dtype": "fp16"}),
            "optimize",
            ("quantize_kquant", {"bits": 4, "block_size": 128, "lm_head": "int8", "symmetric": False}),
            "package_genai",
        ],
    ),
    "later names of the builder's options": (
        {
            "input_model": MODEL | {"load_kwargs": {"revision": COMMIT, "torch_dtype": "float16"}},
            "passes": {
                "m": {
                    "type": "ModelBuilder",
                    "precision": "int4",
                    "extra_options": {
                        "algo_config": "k_quant",
                        "matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8",
                        "qmoe_block_size": 32,
                    },
                }
            },
        },
        "cpu",
        [
            "export",
            "optimize",
            ("allocate_bits", {"average_bits": 5.0, "low_bits": 4, "block_size": 32}),
            ("quantize_kquant", {"block_size": 32, "lm_head": "int8"}),
            "package_genai",
        ],
    ),
    "GPTQ of a checkpoint, then ModelBuilder": (
        {
            "input_model": MODEL,
            "systems": flat(CPU),
            "target": "local_system",
            "data_configs": [
                {
                    "name": "wiki",
                    "type": "HuggingfaceContainer",
                    "load_dataset_config": {
                        "data_name": "Salesforce/wikitext",
                        "data_files": {"train": "wikitext-2-raw-v1/train-*.parquet"},
                        "split": "train",
                        "revision": COMMIT,
                    },
                    "pre_process_data_config": {"max_seq_len": 512, "max_samples": 64, "add_special_tokens": False},
                }
            ],
            "passes": {
                "g": {"type": "Gptq", "bits": 4, "sym": True, "group_size": 32, "lm_head": True, "data_config": "wiki"},
                "m": {"type": "ModelBuilder", "precision": "int4"},
            },
        },
        "cpu",
        [
            "export",
            "optimize",
            (
                "quantize_gptq",
                {
                    "block_size": 32,
                    "symmetric": True,
                    "lm_head": "same",
                    "embeddings": "keep",
                    "calibration": "calibration.jsonl",
                    "samples": 64,
                    "tokens": 512,
                },
            ),
            "package_genai",
        ],
    ),
    "mixed precision, rounding, ModelBuilder": (
        {
            "input_model": MODEL,
            "passes": {
                "s": {"type": "SelectiveMixedPrecision", "algorithm": "kld_gradient", "ratio": 0.75},
                "r": {
                    "type": "Rtn",
                    "group_size": 64,
                    "lm_head": True,
                    "embeds": True,
                    "overrides": {"lm_head": {"bits": 8}, "model.layers.0.mlp.up_proj": {"bits": 4}},
                },
                "m": {"type": "ModelBuilder", "precision": "int4"},
            },
        },
        "cpu",
        [
            "export",
            "optimize",
            (
                "allocate_bits",
                {"average_bits": 5.0, "low_bits": 4, "high_bits": 8, "block_size": 64, "symmetric": False},
            ),
            (
                "quantize_rtn",
                {"block_size": 64, "lm_head": "int8", "embeddings": "same", "int4": ("model.layers.0.mlp.up_proj",)},
            ),
            "package_genai",
        ],
    ),
    "recipe: ModelBuilder, int4, WebGPU": (
        {
            "input_model": MODEL | {"task": "text-generation"},
            "systems": flat(WEBGPU, "gpu"),
            "target": "local_system",
            "passes": {
                "m": {
                    "type": "ModelBuilder",
                    "precision": "int4",
                    "extra_options": {"algo_config": "rtn", "block_size": 32, "enable_webgpu_graph": False},
                }
            },
        },
        "webgpu",
        [
            "export",
            ("cast", {"dtype": "fp16"}),
            ("optimize", {"device": "webgpu"}),
            ("quantize_rtn", {"bits": 4, "block_size": 32}),
            "package_genai",
        ],
    ),
    "float16 of a classifier, inputs and outputs kept": (
        {
            "input_model": {
                "type": "HfModel",
                "config": {
                    "model_path": "owner/model",
                    "task": "text-classification",
                    "load_kwargs": {"revision": COMMIT},
                },
            },
            "systems": flat(DML, "gpu"),
            "target": "local_system",
            "passes": {
                "c": {"type": "OnnxConversion", "save_as_external_data": True},
                "o": {"type": "OrtTransformersOptimization", "model_type": "bert", "float16": True},
                "f": {"type": "DynamicToFixedShape", "dim_param": ["batch", "sequence"], "dim_value": [1, 128]},
            },
        },
        "directml",
        [
            "export",
            ("cast", {"dtype": "fp16"}),
            ("optimize", {"device": "directml"}),
            "package_onnx",
            ("convert_io_dtype", {"dtype": "fp32", "inputs": ("*",), "outputs": ("*",), "only": "fp16"}),
            ("fix_shapes", {"dims": {"batch": 1, "sequence": 128}}),
        ],
    ),
    "static int8 of an encoder with a text, surgeries, another opset": (
        {
            "input_model": MODEL | {"task": "feature-extraction"},
            "data_configs": [
                {
                    "name": "texts",
                    "type": "HuggingfaceContainer",
                    "load_dataset_config": {
                        "type": "huggingface_dataset",
                        "data_name": "text",
                        "data_files": "some.txt",
                    },
                    "pre_process_data_config": {"params": {"max_samples": 4}},
                }
            ],
            "evaluators": {
                "e": {
                    "metrics": [
                        {
                            "name": "accuracy",
                            "type": "accuracy",
                            "data_config": "texts",
                            "sub_types": [
                                {
                                    "name": "accuracy_score",
                                    "higher_is_better": True,
                                    "goal": {"type": "percent-max-degradation", "value": 2},
                                }
                            ],
                        },
                        {
                            "name": "size",
                            "type": "size_on_disk",
                            "sub_types": [{"name": "bytes", "goal": {"type": "threshold", "value": 25e6}}],
                        },
                    ]
                }
            },
            "evaluator": "e",
            "passes": {
                "c": [{"type": "OnnxConversion"}],
                "s": {
                    "type": "GraphSurgeries",
                    "surgeries": [
                        {"surgeon": "MatMulAddToGemm"},
                        {"surgeon": "InferShapes"},
                        {"surgeon": "RenameOutputs", "old_names": ["last_hidden_state"], "new_names": ["states"]},
                    ],
                },
                "q": {"type": "OnnxStaticQuantization", "data_config": "texts", "calibrate_method": "Entropy"},
                "v": {"type": "OnnxOpVersionConversion", "target_opset": 20},
            },
        },
        "cpu",
        [
            ("export", {"part": "base"}),
            "optimize",
            ("quantize_static", {"method": "entropy", "samples": 4, "calibration": "calibration.txt"}),
            "package_onnx",
            ("surgery", {"name": "matmul_add_to_gemm"}),
            ("surgery", {"name": "rename_outputs", "names": {"last_hidden_state": "states"}}),
            ("upgrade_opset", {"opset": 20}),
        ],
    ),
    "blocks of an ONNX graph, logits in float32, session": (
        {
            "input_model": MODEL,
            "passes": {
                "c": {"type": "MobiusBuilder", "precision": "fp16"},
                "q": {"type": "OnnxBlockWiseRtnQuantization", "bits": 8, "block_size": 32},
                "p": {"type": "OnnxPeepholeOptimizer"},
                "t": {"type": "OrtPerfTuning", "opt_level_list": [1, 99], "intra_thread_num_list": [1, 2]},
                "i": {"type": "OnnxIODataTypeConverter", "name_pattern": "logits"},
                "d": {"type": "OnnxDiscrepancyCheck", "reference_model_path": "owner/model", "max_mae": 0.1},
                "a": {"type": "AddOliveMetadata", "graph_name": "m"},
            },
        },
        "cpu",
        [
            "export",
            ("cast", {"dtype": "fp16"}),
            "optimize",
            ("quantize_rtn", {"bits": 8, "block_size": 32, "accuracy_level": 0}),
            "package_genai",
            ("convert_io_dtype", {"dtype": "fp32", "only": "fp16", "inputs": (), "outputs": ("*logits*",)}),
            ("tune_session", {"level": ("basic", "all"), "threads": (1, 2)}),
        ],
    ),
    "AWQ, symmetric, some modules left": (
        {
            "input_model": MODEL,
            "passes": {
                "q": {
                    "type": "AutoAWQQuantizer",
                    "config": {"q_group_size": 64, "zero_point": False, "modules_to_not_convert": ["o_proj"]},
                },
                "c": {"type": "OptimumConversion", "config": {"target_opset": 17, "device": "cpu"}},
                "n": {"type": "MatMulNBitsToQDQ"},
            },
        },
        "cpu",
        [
            "export",
            "optimize",
            ("quantize_awq", {"block_size": 64, "symmetric": True, "keep": ("*o_proj*",), "lm_head": "keep"}),
            "package_genai",
        ],
    ),
    "mixed float16, HQQ": (
        {
            "input_model": MODEL,
            "systems": flat(CUDA, "gpu"),
            "target": "local_system",
            "passes": {
                "c": {"type": "OnnxConversion", "torch_dtype": "float32"},
                "f": {"type": "OrtMixedPrecision", "atol": 1e-6},
                "h": {"type": "OnnxHqqQuantization"},
            },
        },
        "cuda",
        [
            "export",
            ("cast_calibrated", {"samples": 8}),
            "optimize",
            ("quantize_hqq", {"block_size": 128, "embeddings": "keep"}),
            "package_genai",
        ],
    ),
    "the oldest form: flows, providers of the engine, data of the model": (
        {
            "verbose": True,
            "input_model": {
                "type": "PyTorchModel",
                "config": {
                    "model_script": "user_script.py",
                    "dummy_inputs_func": "dummy_inputs",
                    "hf_config": {
                        "model_name": "owner/model",
                        "task": "text-classification",
                        "model_loading_args": {"revision": COMMIT},
                        "dataset": {"data_name": "glue", "subset": "mrpc"},
                    },
                },
            },
            "data_configs": {"d": {"type": "HuggingfaceContainer", "params_config": {"data_files": "some.txt"}}},
            "evaluators": {
                "e": {"metrics": [{"name": "a", "type": "accuracy", "sub_type": "accuracy_score", "data_config": "d"}]}
            },
            "passes": {
                "conversion": {"type": "OnnxConversion", "config": {"input_names": ["input_ids"], "target_opset": 13}},
                "quantization": {"type": "OnnxQuantization", "config": {"data_config": "__input_model_data_config__"}},
                "unused": {"type": "OrtPerfTuning"},
                "genai": {"type": "GenAIModelExporter", "config": {"precision": "fp32", "metadata_only": True}},
            },
            "pass_flows": [["conversion", "quantization"], ["conversion"]],
            "engine": {"execution_providers": ["CPUExecutionProvider", "OpenVINOExecutionProvider"], "evaluator": "e"},
        },
        "cpu",
        [
            "export",
            "optimize",
            ("quantize_static", {"method": "minmax", "calibration": "calibration.txt"}),
            "package_onnx",
        ],
    ),
    "alternatives with a search": (
        {
            "input_model": MODEL,
            "evaluators": LATENCY,
            "evaluator": "common_evaluator",
            "search_strategy": {"execution_order": "joint", "sampler": "random", "max_samples": 5},
            "passes": {
                "m": {"type": "ModelBuilder", "precision": "int4"},
                "q": [
                    {"type": "KQuant", "group_size": 32},
                    {"type": "KQuant", "group_size": 128, "sym": True},
                ],
            },
        },
        "cpu",
        ["export", "optimize", ("quantize_kquant", {"block_size": 32, "symmetric": False}), "package_genai"],
    ),
    "allocated, GPTQ, head and look-ups rounded behind it, tasks of lm-eval": (
        {
            "input_model": MODEL,
            "systems": flat(CUDA, "gpu"),
            "target": "local_system",
            "evaluators": {"e": {"type": "LMEvaluator", "tasks": ["mmlu", "size_on_disk"], "limit": 8}},
            "evaluator": "e",
            "passes": {
                "s": {"type": "SelectiveMixedPrecision", "algorithm": "kld_gradient", "ratio": 0.5, "sym": False},
                "g": {"type": "gptq", "group_size": 32},
                "r": {"type": "rtn", "bits": 8, "group_size": 32, "lm_head": True, "embeds": True},
                "m": {"type": "modelbuilder", "precision": "int4", "block_size": 16},
                "t": {"type": "GraphSurgeries", "surgeries": [{"surgeon": "TieWordEmbeddings"}]},
            },
        },
        "cuda",
        [
            "export",
            ("cast", {"dtype": "fp16"}),
            "optimize",
            ("allocate_bits", {"average_bits": 6.0, "block_size": 32, "embeddings": "keep"}),
            ("quantize_gptq", {"bits": 4, "lm_head": "keep", "embeddings": "keep"}),
            ("quantize_rtn", {"bits": 8, "block_size": 32, "lm_head": "same", "embeddings": "same"}),
            "package_genai",
        ],
    ),
    "genai_config.json of a converted model, at an opset": (
        {
            "input_model": MODEL,
            "passes": {
                "c": {"type": "OnnxConversion", "target_opset": 20},
                "e": {"type": "OnnxCastChainElimination"},
                "m": {"type": "ModelBuilder", "precision": "int4", "metadata_only": True},
            },
        },
        "cpu",
        ["export", "optimize", "package_genai", ("upgrade_opset", {"opset": 20})],
    ),
    "int8 in names of older workflows, scripts that time and evaluate": (
        {
            "input_model": MODEL
            | {"task": "text-classification", "load_kwargs": {"revision": COMMIT, "_attn_implementation": "eager"}},
            "systems": {"host": {"type": "LocalSystem"}, **flat(CPU, "cpu")},
            "host": "host",
            "target": "local_system",
            "data_configs": [{"name": "d", "user_script": "mine.py", "load_dataset_config": {"type": "mine"}}],
            "evaluator": {
                "metrics": [
                    {"name": "a", "type": "accuracy", "data_config": "d", "sub_types": [{"name": "f1_score"}]},
                    {"name": "c", "type": "custom", "user_config": {"user_script": "mine.py"}},
                ]
            },
            "passes": {
                "c": {"type": "OnnxConversion", "config": {"target_opset": 13}},
                "q": {
                    "type": "OnnxDynamicQuantization",
                    "config": {
                        "weight_type": "QUInt8",
                        "MatMulConstBOnly": False,
                        "op_types_to_quantize": ["MatMul", "Gemm", "Gelu"],
                    },
                },
                "p": {
                    "type": "OrtPerfTuning",
                    "config": {
                        "user_script": "mine.py",
                        "dataloader_func": "loader",
                        "batch_size": 1,
                        "execution_mode_list": ["ORT_SEQUENTIAL"],
                    },
                },
            },
        },
        "cpu",
        [
            "export",
            "optimize",
            ("quantize_dynamic", {"bits": 8, "embeddings": "keep"}),
            "package_onnx",
            ("tune_session", {"execution": ("sequential",)}),
        ],
    ),
}


def write(folder, workflow, name="mine.json"):
    (folder / "some.txt").write_text("A text.\n")
    (folder / name).write_text(workflow if isinstance(workflow, str) else json.dumps(workflow))
    return folder / name


def changed(**changes):
    """A right workflow with some keys changed; path__key for those of the pass, None leaves one out."""
    workflow = {
        "input_model": copy.deepcopy(MODEL),
        "systems": flat("CPUExecutionProvider"),
        "target": "local_system",
        "passes": {"m": {"type": "ModelBuilder", "precision": "int4"}},
    } | changes
    return {key: value for key, value in workflow.items() if value is not None}


def a_pass(**options):
    return changed(passes={"m": {"type": "ModelBuilder", "precision": "int4"} | options})


def notes_of(tmp_path, workflow):
    return [text for _, text in translate.translate(write(tmp_path, workflow)).told.notes]
