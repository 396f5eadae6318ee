"""How the next tokens that one model expects differ from those of another: loss, Kullback-Leibler divergence, agreement."""

import math

import numpy as np

from onnxmake.errors import CheckFailed

VALUES = 1 << 17  # logits worked on at a time: in float64 they stay in a core's cache, which is five times as fast


def compared(reference: np.ndarray, made: np.ndarray, following: np.ndarray) -> np.ndarray:
    """[4, T] in float64, of logits [T, V] each and the tokens [T] that followed: the reference's and the other's negative
    log-likelihood, the divergence KL(reference || other) in nats, and 1 where both have the same likeliest token.

    Raises CheckFailed where the other's are no numbers.
    """
    step = max(1, VALUES // reference.shape[-1])
    slices = [slice(i, i + step) for i in range(0, len(following), step)]
    figures = np.concatenate([_compared(reference[s], made[s], following[s]) for s in slices], 1)
    if not np.isfinite(figures).all():
        raise CheckFailed(
            "The model computes no probabilities: its logits hold NaN or infinity.",
            "A pass or a type of fewer bits loses the numbers' range.",
            "Do not ship this build; leave out the passes one by one to see which it is.",
        )
    return figures


def _compared(reference: np.ndarray, made: np.ndarray, following: np.ndarray) -> np.ndarray:
    """With p = exp(a) / A: sum p (log p - log q) = sum exp(a) (a - b) / A - log A + log B."""
    a, b = (logits.astype(np.float64) for logits in (reference, made))
    same, at = a.argmax(-1) == b.argmax(-1), (np.arange(len(following)), following)
    with np.errstate(invalid="ignore"):  # told by who asks
        a -= a.max(-1, keepdims=True)
        b -= b.max(-1, keepdims=True)
        weights = np.exp(a)
        total, other = weights.sum(-1), np.exp(b).sum(-1)
        terms = weights * (a - b)
    log_a, log_b = np.log(total), np.log(other)
    terms[weights == 0] = 0  # what the reference rules out adds nothing, though the other rule it out, too
    return np.stack([log_a - a[at], log_b - b[at], terms.sum(-1) / total - log_a + log_b, same])


def summary(figures: np.ndarray) -> dict[str, float]:
    """What `doit check` records, of all positions' figures [4, T]. The percentile is interpolated."""
    reference, made, divergence, same = figures
    perplexities = [math.exp(loss.mean()) for loss in (made, reference)]
    return {
        "perplexity": perplexities[0],
        "perplexity_unquantised": perplexities[1],
        "perplexity_rise": perplexities[0] / perplexities[1] - 1,
        "kl": max(0.0, float(divergence.mean())),  # below 0 by rounding alone
        "kl_p99": max(0.0, float(np.percentile(divergence, 99))),
        "top1": float(same.mean()),
    }
