"""onnxruntime's own block quantisers: weight float32 [N, K], bits, block -> the float32 [N, K] that their codes stand for."""

import numpy as np
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantizer
from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor, quant_tensor_k_quant_cpu


def _values(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Codes [blocks, block], the others [blocks, 1]."""
    return ((codes - zeros.astype(np.float32)) * scales).astype(np.float32).reshape(like.shape)


def k_quant(weight: np.ndarray, bits: int, block: int) -> np.ndarray:
    return _values(*quant_tensor_k_quant_cpu(weight, bits, block), weight)


def rtn(weight: np.ndarray, bits: int, block: int, symmetric: bool) -> np.ndarray:
    """That of its neural_compressor folder, which the GenAI builder offers as "rtn"."""
    return _values(*quant_tensor(weight, bits, block, "sym" if symmetric else "asym", "uint"), weight)


def hqq(weight: np.ndarray, bits: int, block: int, whole: bool = False) -> np.ndarray:
    """Zero points are float32, which its fast kernels do not read; `whole`: rounded to what they do."""
    tensor, quantizer = torch.tensor(weight), HQQWeightOnlyQuantizer(None)
    codes, scales, zeros = quantizer.quantize_internal(tensor, bits, group_size=block)
    if whole:
        zeros = zeros.round().clamp(0, 2**bits - 1)
        codes = ((tensor.reshape(-1, block) / scales.reshape(-1, 1)).round() + zeros.reshape(-1, 1)).clamp(
            0, 2**bits - 1
        )
    columns = (array.numpy().reshape(-1, 1) for array in (scales, zeros))
    return _values(codes.numpy().reshape(-1, block), *columns, weight)
