"""ONNX Runtime's CUDA provider: its kernels take what the CPU's take.

Attention has no float32 kernel there, so a target casts to fp16 or bf16 right after export.
"""

import onnx_ir as ir

from onnxmake.model.lowering import cpu


def matmul_nbits(node: ir.Node) -> None:
    """Without accuracy_level, which chooses among the CPU's kernels."""
    node.attributes.pop("accuracy_level", None)


TABLE = {**cpu.TABLE, "com.microsoft::MatMulNBits": matmul_nbits}
PROVIDER_OPTIONS = [  # no graph capture: it wants every shape fixed; residual sums of norms in float32
    {"cuda": {"enable_cuda_graph": "0", "enable_skip_layer_norm_strict_mode": "1"}}
]
