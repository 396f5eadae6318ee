"""ONNX Runtime's WebGPU provider, in float16 or float32: its kernels take what the CPU's take, but for a few.

What has no kernel there would run on the CPU, with a copy each way: FusedMatMul, MoE.
"""

import onnx_ir as ir

from onnxmake.model.experts import dense
from onnxmake.model.graph import attribute
from onnxmake.model.lowering import _attention as kernels
from onnxmake.model.lowering import cpu, portable
from onnxmake.model.lowering._softmax import attention_inputs
from onnxmake.model.lowering.cuda import experts_unproven


def attention(node: ir.Node) -> None:
    """Plain ops where a layer has a soft cap, which the kernel drops in silence, or a mask without a past, which it refuses."""
    masked = kernels.is_multi_head(node) and attention_inputs(node)[5] is not None
    (portable if masked or attribute(node, "softcap") else cpu).attention(node)


TABLE = {
    **cpu.TABLE,
    "Linear": portable.linear,
    "Experts": dense,
    "com.microsoft::QMoE": experts_unproven,
    "Attention": attention,
}
PROVIDER_OPTIONS: list[dict[str, dict[str, str]]] = [{"webgpu": {}}]
