"""Checkpoints of integers in groups, packed number by number as the methods' papers and programs say, and their values."""

from dataclasses import dataclass

import numpy as np

AWQ = [0, 2, 4, 6, 1, 3, 5, 7]  # the columns whose codes follow each other in a word


@dataclass
class Weight:
    """codes uint8 [N, K], scales [N, groups], zeros [N, groups], and the group of each input."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    index: np.ndarray
    bits: int

    @property
    def values(self) -> np.ndarray:
        """float32 [N, K], one after the other."""
        out = np.empty(self.codes.shape, np.float32)
        for n, k in np.ndindex(*out.shape):
            group = self.index[k]
            code, zero = int(self.codes[n, k]), int(self.zeros[n, group])
            out[n, k] = np.float32(code - zero) * np.float32(self.scales[n, group])
        return out


def drawn(
    rows: int, width: int, group: int, bits: int = 4, symmetric=False, order=False, seed=0, lowest=0, dtype=np.float16
) -> Weight:
    """Any codes; scales that give a random layer's weights; `order`: groups of inputs all over the place."""
    rng, count = np.random.default_rng(seed), -(-width // group)
    zeros = rng.integers(lowest, 2**bits, (rows, count), np.uint8)
    scales = (rng.uniform(0.5, 1.5, (rows, count)) * width**-0.5 / 2 ** (bits - 1)).astype(dtype)
    index = (np.arange(width) // group).astype(np.int32)
    return Weight(
        rng.integers(0, 2**bits, (rows, width), np.uint8),
        scales,
        np.full_like(zeros, 2 ** (bits - 1)) if symmetric else zeros,
        rng.permutation(index) if order else index,
        bits,
    )


def words(numbers: np.ndarray, bits: int, order=None) -> np.ndarray:
    """int32 [M, ceil(L bits / 32)] of numbers [M, L]: `order` says which of a word's numbers comes first."""
    each = 32 // bits
    order = order or list(range(each))
    out = np.zeros((len(numbers), -(-numbers.shape[1] // each)), np.uint32)
    for m, w in np.ndindex(*out.shape):
        for place in range(each):
            column = w * each + order[place]
            if column < numbers.shape[1]:
                out[m, w] |= np.uint32(int(numbers[m, column]) << bits * place)
    return out.view(np.int32)


def gptq(name: str, w: Weight, version: int = 1) -> dict:
    less = w.zeros - 1 if version == 1 else w.zeros
    return {
        f"{name}.qweight": ("I32", words(w.codes, w.bits).T),
        f"{name}.qzeros": ("I32", words(less.T, w.bits)),
        f"{name}.scales": ("F16", w.scales.T),
        f"{name}.g_idx": ("I32", w.index),
    }


def awq(name: str, w: Weight) -> dict:
    return {
        f"{name}.qweight": ("I32", words(w.codes.T, 4, AWQ)),
        f"{name}.qzeros": ("I32", words(w.zeros.T, 4, AWQ)),
        f"{name}.scales": ("F16", w.scales.T),
    }


def compressed(name: str, w: Weight, symmetric: bool = False) -> dict:
    dtype = {"float16": "F16", "float32": "F32", "bfloat16": "BF16"}[w.scales.dtype.name]
    raw = {
        f"{name}.weight_packed": ("I32", words(w.codes, w.bits)),
        f"{name}.weight_scale": (dtype, w.scales),
        f"{name}.weight_shape": ("I64", np.array(w.codes.shape)),
    }
    if not symmetric:
        raw[f"{name}.weight_zero_point"] = "I32", words(w.zeros.T, w.bits).T
    if (np.diff(w.index) < 0).any():
        raw[f"{name}.weight_g_idx"] = "I32", w.index
    return raw


def int8(name: str, w: Weight, symmetric: bool = True) -> dict:
    raw = {
        f"{name}.weight": ("I8", (w.codes.astype(np.int16) - 128).astype(np.int8)),
        f"{name}.weight_scale": ("F32", w.scales.astype(np.float32)),
    }
    if not symmetric:
        raw[f"{name}.weight_zero_point"] = "I8", (w.zeros.astype(np.int16) - 128).astype(np.int8)
    return raw


def gptq_settings(group: int, bits: int = 4, version: int = 1, **more) -> dict:
    form = "gptq" if version == 1 else "gptq_v2"
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": form, **more}


def compressed_settings(group: int | None, bits=4, symmetric=False, form="pack-quantized", **more) -> dict:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group, **more}
    weights["strategy"] = weights.get("strategy", "group" if group else "channel")
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}


AWQ_SETTINGS = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}
