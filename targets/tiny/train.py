"""Train the embedded checkpoint: a small Qwen2 on the Python standard library (PSF-2.0), about an hour on two cores.

    python targets/tiny/train.py [--steps 5000] [--out FOLDER]

Needs the packages of containers/torch. Writes config, tokenizer, bf16 weights and heldout.txt; prints perplexity on the
held-out modules, which are never trained on.
"""

import argparse
import math
import random
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

HELD_OUT = (
    "calendar",
    "configparser",
    "csv",
    "filecmp",
    "fractions",
    "graphlib",
    "queue",
    "sched",
    "shlex",
    "textwrap",
    "zipapp",
)
SKIP = ("site-packages", "encodings", "pydoc_data", "encoded_modules", "cjkencodings", "lib2to3/tests/data")
END = "<|endoftext|>"
SEQUENCE, BATCH = 512, 8
# Qwen2's own pre-tokenizer: words, single digits, punctuation, runs of white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus() -> tuple[list[str], str]:
    """Training texts and the held-out text. Library modules are listed twice: tests are many and alike."""
    root = Path(sysconfig.get_paths()["stdlib"])
    held = {root / f"{name}.py" for name in HELD_OUT}
    train = []
    for path in sorted(root.rglob("*.py")):
        if path in held or any(part in path.as_posix() for part in SKIP):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # a few tests are deliberately in other encodings
            continue
        train += [text] if "test" in path.relative_to(root).parts[0] else [text, text]
    return train, "".join(path.read_text("utf-8") for path in sorted(held))


def train_tokenizer(texts: list[str], vocabulary: int = 4096) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@torch.no_grad()
def perplexity(model: Qwen2ForCausalLM, ids: torch.Tensor) -> float:
    """exp of the mean next-token loss over consecutive windows of SEQUENCE tokens."""
    model.eval()
    losses = [
        model(input_ids=w[None], labels=w[None]).loss.float().item()
        for w in ids[: len(ids) // SEQUENCE * SEQUENCE].view(-1, SEQUENCE)
    ]
    model.train()
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    texts, held_text = corpus()
    (options.out / "heldout.txt").write_text(held_text)
    tokenizer = train_tokenizer(texts)
    random.Random(0).shuffle(texts)
    ids = np.concatenate([np.array([0, *e.ids], np.int64) for e in tokenizer.encode_batch(texts)])
    held = torch.tensor(tokenizer.encode(held_text).ids)
    print(
        f"{len(ids):,} training tokens, {len(held):,} held out ({len(held_text.encode()) / len(held):.2f} bytes a token)",
        flush=True,
    )

    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="bfloat16",
    )
    model = Qwen2ForCausalLM(config).float()
    compiled = torch.compile(model)  # twice as fast; needs a C++ compiler
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedule = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda s: min(1, (s + 1) / 100) * 0.5 * (1 + math.cos(math.pi * s / options.steps))
        )
        for o in optimizers
    ]

    started = time.time()
    for step in range(1, options.steps + 1):
        rows = rng.integers(0, len(ids) - SEQUENCE, BATCH)
        batch = torch.from_numpy(np.stack([ids[r : r + SEQUENCE] for r in rows]))
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o, s in zip(optimizers, schedule):
            o.step()
            o.zero_grad()
            s.step()
        if step % 50 == 0:
            print(
                f"step {step}  loss {loss.item():.3f}  {step * BATCH * SEQUENCE / (time.time() - started):.0f} tokens/s",
                flush=True,
            )
        if step % 500 == 0 or step == options.steps:
            print(f"step {step}  held-out perplexity {perplexity(model, held):.2f}", flush=True)

    model.to(torch.bfloat16).generation_config = GenerationConfig(
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        repetition_penalty=1.2,
    )
    model.save_pretrained(options.out)
    Qwen2Tokenizer(
        tokenizer_object=tokenizer,
        unk_token=None,
        bos_token=None,
        eos_token=END,
        pad_token=END,
        model_max_length=SEQUENCE,
    ).save_pretrained(options.out)
    print(f"bf16 held-out perplexity {perplexity(model, held):.2f}", flush=True)


if __name__ == "__main__":
    main()
