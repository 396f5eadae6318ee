"""A checkpoint of Qwen2's architecture as GGUF, quantised by llama.cpp, and its tokens a second: a prompt of 128, then 64.

    python -m venv llama && llama/bin/pip install llama-cpp-python gguf safetensors ml-dtypes
    llama/bin/python benchmarks/llama.py CHECKPOINT FOLDER [--type Q4_0] [--threads 2]

Writes FOLDER/f16.gguf, without a vocabulary, and FOLDER/quantised.gguf, and prints {"prefill", "decode", "mb"} as JSON. speed.py runs it.
"""

import argparse
import ctypes
import json
import time
from pathlib import Path

import gguf
import llama_cpp
import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
import numpy as np
from safetensors import safe_open

PROMPT, NEW = 128, 64
BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def name_of(tensor: str) -> str:
    """llama.cpp's name."""
    stem, kind = tensor.rsplit(".", 1)
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, _, layer, module = stem.split(".", 3)
    return f"blk.{layer}.{BLOCK[module]}.{kind}"


def write(checkpoint: Path, out: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer = gguf.GGUFWriter(str(out), "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            for tensor in tensors.keys():  # noqa: SIM118  no mapping
                value = tensors.get_tensor(tensor).astype(np.float32)
                if not (config.get("tie_word_embeddings") and tensor == "lm_head.weight"):
                    writer.add_tensor(name_of(tensor), value.astype(np.float16) if value.ndim == 2 else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, out: Path, kind: str, threads: int) -> None:
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), threads
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(options)):
        raise SystemExit(f"llama.cpp could not quantise {source}.")


def run(context: ctypes.c_void_p, tokens: list[int]) -> None:
    kept = (llama_cpp.llama_token * len(tokens))(*tokens)  # the batch only points at it
    batch = llama_cpp.llama_batch_get_one(kept, len(tokens))
    if llama_cpp.llama_decode(context, batch):
        raise SystemExit("llama.cpp could not decode.")
    llama_cpp.llama_synchronize(context)


def measured(file: Path, threads: int) -> dict[str, float]:
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_threads, options.n_threads_batch = 512, threads, threads
    context = llama_cpp.llama_init_from_model(model, options)
    prompt = np.random.default_rng(0).integers(0, 1000, PROMPT).tolist()
    run(context, prompt)  # once, unmeasured
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    started = time.perf_counter()
    run(context, prompt)
    middle = time.perf_counter()
    for token in range(NEW):
        run(context, [token])
    ended = time.perf_counter()
    return {"prefill": PROMPT / (middle - started), "decode": NEW / (ended - middle), "mb": file.stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    plain, made = given.folder / "f16.gguf", given.folder / "quantised.gguf"
    if not made.exists():
        write(given.checkpoint, plain)
        quantise(plain, made, given.type, given.threads)
    print(json.dumps(measured(made, given.threads)))


if __name__ == "__main__":
    main()
