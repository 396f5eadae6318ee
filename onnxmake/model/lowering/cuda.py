"""ONNX Runtime's CUDA provider: its kernels take what the CPU's take.

Attention has no float32 kernel there, so a target casts to fp16 or bf16 right after export.
"""

import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model.experts import dense
from onnxmake.model.graph import attribute
from onnxmake.model.lowering import cpu


def experts_unproven(node: ir.Node) -> None:
    """Refused: the kernels of other devices than the CPU read quantised experts in layouts of their own."""
    raise UnsupportedError(
        "The model has quantised experts.",
        "Only the CPU's kernel for them is known to read them as they are written.",
        'Write experts = "keep" under the quantiser, or choose device = "cpu".',
    )


def refuse_2_bits(node: ir.Node) -> None:
    if attribute(node, "bits") == 2:
        raise UnsupportedError(
            "The model has weights of 2 bits.",
            "Only the CPU's kernels are known to read them.",
            'Choose 4 or 8 bits under the quantiser, or device = "cpu".',
        )


def matmul_nbits(node: ir.Node) -> None:
    """Without accuracy_level, which chooses among the CPU's kernels."""
    refuse_2_bits(node)
    node.attributes.pop("accuracy_level", None)


def sigmoid(node: ir.Node) -> None:
    """One op for SiLU in the types that its kernel has."""
    if node.inputs[0].dtype != ir.DataType.BFLOAT16:
        cpu.sigmoid(node)


TABLE = {
    **cpu.TABLE,
    "Experts": dense,
    "com.microsoft::QMoE": experts_unproven,
    "com.microsoft::MatMulNBits": matmul_nbits,
    "com.microsoft::GatherBlockQuantized": refuse_2_bits,
    "::Sigmoid": sigmoid,
}
PROVIDER_OPTIONS = [  # no graph capture: it wants every shape fixed; residual sums of norms in float32
    {"cuda": {"enable_cuda_graph": "0", "enable_skip_layer_norm_strict_mode": "1"}}
]
