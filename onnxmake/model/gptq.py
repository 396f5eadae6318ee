"""GPTQ (Frantar et al. 2022): round one column after the other, and let those that follow make up for the error."""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from onnxmake.errors import PassError
from onnxmake.model.quantisers.fitting import fit, fit_rows

PANEL = 256  # columns whose updates are applied together; a multiple of every block size


@njit(parallel=True, cache=True)
def _round_panel(weight, factor, groups, fresh, importance, bits, block, symmetric, scales, zeros, codes, errors):
    """Round the columns of a panel [N, P], in order, with the panel's part of the factor [P, P].

    groups [P]: the block of each column. `fresh`: a block's scale is fitted when its first column is reached, to values that
    hold the errors of those before; else it is known. errors [N, P]: of each column over its diagonal.
    """
    top, width = np.float32(2**bits - 1), weight.shape[1]
    for n in prange(len(weight)):
        for i in range(width):
            group = groups[i]
            if fresh and i % block == 0:
                last = min(i + block, width)
                scales[n, group], zeros[n, group] = fit(weight[n, i:last], importance[i:last], bits, symmetric)
            scale, zero, value = scales[n, group], zeros[n, group], weight[n, i]
            code = zero
            if scale != 0:
                code = min(max(np.rint(value / scale + zero), np.float32(0)), top)
            codes[n, i] = np.uint8(code)
            error = (value - (code - zero) * scale) / factor[i, i]
            errors[n, i] = error
            for k in range(i + 1, width):
                weight[n, k] -= error * factor[i, k]


@dataclass(frozen=True)
class Order:
    """In which order columns are rounded, [K], and the factor [K, K] of the inverse Hessian in that order."""

    columns: np.ndarray
    factor: np.ndarray
    hessian: np.ndarray  # its diagonal [K]; 0 where a column is never used, and others are


def inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """Upper triangular U [K, K], float32, with U^T U the inverse of a positive definite H [K, K]."""
    upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]  # R R^T = H
    return np.triu(np.linalg.inv(upper)).astype(np.float32)


def order_of(hessian: np.ndarray, damping: float, act_order: bool) -> Order:
    """What the rounding needs to know of X^T X [K, K], which may be scaled.

    `damping` times the mean of the diagonal is added to it. act_order: columns that matter most come first. Raises PassError
    where it is singular even so.
    """
    diagonal = np.diag(hessian).copy()
    columns = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(hessian))
    damped = hessian[np.ix_(columns, columns)]
    damped[np.diag_indices(len(damped))] += max(damping * float(np.mean(diagonal)), 1e-8)
    try:
        return Order(columns, inverse_factor(damped), diagonal if diagonal.any() else np.ones_like(diagonal))
    except np.linalg.LinAlgError:
        raise PassError(
            f"With damping = {damping:g}, the Hessian of a product cannot be inverted.",
            "Some of the channels that it reads depend on others, in all that the calibration text holds.",
            "Write a larger damping, such as 0.01, or more samples.",
        ) from None


def gptq(
    order: Order, weight: np.ndarray, bits: int, block: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes uint8 [N, K], scales float32 and zero points uint8 [N, ceil(K / block)] of weight [N, K].

    Where columns are out of order, scales are fitted beforehand: a block's columns are not reached one after the other.
    """
    (rows, width), columns, factor = weight.shape, order.columns, order.factor
    left = np.where(order.hessian == 0, np.float32(0), weight)
    in_order = bool((np.diff(columns) > 0).all())
    scales, zeros = (np.zeros((rows, -(-width // block)), np.float32) for _ in range(2))
    if not in_order:
        fit_rows(left, order.hessian.astype(np.float32), bits, block, symmetric, scales, zeros)
        left = left[:, columns]
    importance, groups = np.diag(factor) ** -2, columns // block
    codes = np.empty((rows, width), np.uint8)
    for start in range(0, width, PANEL):
        here = slice(start, min(start + PANEL, width))
        panel, own = np.ascontiguousarray(left[:, here]), np.ascontiguousarray(factor[here, here])
        made, errors = np.empty(panel.shape, np.uint8), np.empty(panel.shape, np.float32)
        settings = in_order, importance[here], bits, block, symmetric
        _round_panel(panel, own, groups[here], *settings, scales, zeros, made, errors)
        left[:, here.stop :] -= errors @ factor[here, here.stop :]
        codes[:, columns[here]] = made
    return codes, scales, zeros.astype(np.uint8)
