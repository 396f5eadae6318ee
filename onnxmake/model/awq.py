"""AWQ (Lin et al. 2023): channels with large activations get finer steps, by a scale that the op in front of them takes back."""

import numpy as np

from onnxmake.model.quantisers.fitting import nearest
from onnxmake.model.segments import Segment, Values
from onnxmake.model.stored import dequantized

EXPONENTS = np.arange(20, dtype=np.float32) / 20
ROWS = 512  # of a layer's weights, by which scales are judged
GAINS = {  # norm -> the inputs that multiply, and shift, what it normalises
    "SimplifiedLayerNormalization": (1,),
    "SkipSimplifiedLayerNormalization": (2,),
    "LayerNormalization": (1, 2),
    "SkipLayerNormalization": (2, 3),
}


def _products(segment: Segment, activation: str) -> list[str] | None:
    """The weights that multiply the activation; None where something else reads it, too."""
    users = [node for node in segment.nodes if any(v is not None and v.name == activation for v in node.inputs)]
    names = [name for name, x in segment.products.items() if x == activation]
    return names if len(users) == len(names) and activation not in segment.outputs else None


def divisible(segment: Segment, activation: str) -> list[str] | None:
    """Weights along whose last axis, or rows, the activation is divided where they are; None where nothing can take it back."""
    maker = next((n for n in segment.nodes if any(v.name == activation for v in n.outputs)), None)
    if maker is None or _products(segment, activation) is None:
        return None
    if maker.op_type in GAINS and maker.outputs[0].name == activation:
        names = [maker.inputs[i].name for i in GAINS[maker.op_type] if i < len(maker.inputs) and maker.inputs[i]]
        return names if all(name in segment.references and _alone(segment, name) for name in names) else None
    if maker.op_type != "Mul":
        return None
    for value in maker.inputs:  # a gate times a product: the product's rows
        product = value.producer()
        name = None if product is None or product.op_type != "FusedMatMul" else product.inputs[1].name
        if name in segment.products and len(value.uses()) == 1 and _alone(segment, name):
            return [name]
    return None


def _alone(segment: Segment, weight: str) -> bool:
    return sum(v is not None and v.name == weight for n in segment.nodes for v in n.inputs) == 1


def channel_scales(weight: np.ndarray, gram: np.ndarray, bits: int, block: int, symmetric: bool) -> np.ndarray:
    """float32 [K]: of 20 powers of the activations' root mean square, the one after which rounding changes products W x least.

    weight: [N, K], of which ROWS are looked at; gram: X^T X [K, K].
    """
    weight = weight[:: -(-len(weight) // ROWS)]
    size = np.sqrt(np.maximum(np.diag(gram), 0)).astype(np.float32)
    size = np.maximum(size / (size.max() or 1), np.float32(1e-4))
    best, chosen = np.inf, np.ones_like(size)
    for exponent in EXPONENTS:
        scales = size**exponent
        scales /= np.sqrt(scales.max() * scales.min())
        error = _error(weight, scales, gram, bits, block, symmetric)
        if error < best:
            best, chosen = error, scales
    return chosen


def _error(weight: np.ndarray, scales: np.ndarray, gram: np.ndarray, bits: int, block: int, symmetric: bool) -> float:
    found = nearest(np.diag(gram) / scales**2, weight * scales, bits, block, symmetric)
    difference = dequantized(*found, block) / scales - weight
    return float(np.vdot(difference @ gram, difference))


def scale_channels(
    segment: Segment, weights: Values, grams: Values, settings: dict[str, tuple[int, int, bool]]
) -> set[str]:
    """Multiply weights along their columns, and divide what is in front of them, in place. Returns the names of those divided.

    settings: weight -> bits, block size, symmetric. Gram matrices follow.
    """
    changed: set[str] = set()
    for activation, gram in grams.items():
        names, divided = _products(segment, activation), divisible(segment, activation)
        if not divided or not names or not all(name in settings for name in names):
            continue
        scales = channel_scales(np.concatenate([weights[name] for name in names]), gram, *settings[names[0]])
        for name in names:
            weights[name] = weights[name] * scales
        for name in divided:
            weights[name] = (weights[name].T / scales).T if weights[name].ndim == 2 else weights[name] / scales
        grams[activation] = gram / np.outer(scales, scales)
        changed.update(divided)
    return changed
