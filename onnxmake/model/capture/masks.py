"""What a mask says: Transformers' mask functions are asked which keys a query sees.

A mask that is causal, with or without a window, becomes attributes of the attention op; any other stays a tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PROBED = (0, 1, 2, 7, 63, 1000, 70_000)  # query positions; a window may be as long as the last


@dataclass(frozen=True)
class Visibility:
    """Which keys a query sees: those up to itself if causal, at most `window` of them if not zero."""

    causal: bool
    window: int = 0


def probe(mask_function: Callable) -> Visibility | None:
    """What `mask_function(batch, head, query, key)` allows, or None where it is neither full, nor causal, nor a window."""

    def seen(query: int, keys: int) -> Tensor:
        zero = torch.zeros(1, dtype=torch.int64)
        return mask_function(zero, zero, torch.full((1,), query), torch.arange(keys)).expand(keys).bool()

    try:
        last = PROBED[-1]
        row = seen(last, last + 100)
        if row.all() and all(seen(q, 80).all() for q in PROBED[:5]):
            return Visibility(causal=False)
        window = int(row.sum())
        window = 0 if window == last + 1 else window
        around = [window * times + more for times in (1, 2, 3) for more in (-1, 0, 1)] if window else []
        for query in (q for q in (*PROBED, *around) if 0 <= q <= last):  # a chunk looks like a window from within
            keys = torch.arange(query + 100)
            expected = (keys <= query) & ((keys > query - window) if window else True)
            if not torch.equal(seen(query, query + 100), expected):
                return None
    except (IndexError, TypeError, RuntimeError, ValueError):  # reads something else than positions
        return None
    return Visibility(causal=True, window=window)
