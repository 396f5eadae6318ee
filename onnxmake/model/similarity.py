"""How near an encoder's outputs are to another's: cosines, and whether a head has the same label."""

from collections.abc import Mapping

import numpy as np

from onnxmake.errors import CheckFailed, UnsupportedError


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of all values of both; of nothing with nothing, 1."""
    a, b = (x.astype(np.float64).ravel() for x in (a, b))
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length else float(not a.any() and not b.any())


def compared(
    reference: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], mask: np.ndarray | None
) -> tuple[list[float], list[bool]]:
    """Cosines of each output of each of a batch's inputs; and for `logits`, whether their largest is the same one. `mask`
    [batch, sequence] is 0 for padding, which has no say.

    Raises UnsupportedError where the two share no output, CheckFailed where one is no number.
    """
    names = [name for name in reference if name in made]
    if not names:
        raise UnsupportedError(
            f"The model gives {', '.join(made)}; the unquantised one {', '.join(reference)}.",
            "A pass has replaced all outputs.",
            "Leave [check] without gates on what it computes.",
        )
    cosines, same = [], []
    for name in names:
        a, b = reference[name], made[name]
        tokens = mask is not None and mask.shape == a.shape[:2]
        for row in range(len(a)):
            kept = mask[row].astype(bool) if tokens else ...
            cosines.append(_cosine(a[row][kept], b[row][kept]))
            if name == "logits" and a.shape[-1] > 1:
                same += (a[row][kept].argmax(-1) == b[row][kept].argmax(-1)).ravel().tolist()
    if not np.isfinite(cosines).all():
        raise CheckFailed(
            "The model's outputs hold NaN or infinity.",
            "A pass or a type of fewer bits loses the numbers' range.",
            "Do not ship this build; leave out the passes one by one to see which it is.",
        )
    return cosines, same


def summary(cosines: list[float], same: list[bool]) -> dict[str, float]:
    """What `doit check` records: the least cosine and their mean, and of a head the share of labels that are the same."""
    out = {"cosine": min(cosines), "cosine_mean": float(np.mean(cosines))}
    return out | {"top1": float(np.mean(same))} if same else out
