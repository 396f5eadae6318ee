"""Advice on a name that there is not. Standard library only: the host gives it, too."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """Advice that names the most similar valid name, or all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, 1, 0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Valid: {', '.join(names) or 'none'}."
