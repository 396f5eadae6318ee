"""Work something out once, for all threads."""

import functools
import threading
from collections.abc import Callable
from typing import Any


def once(function: Callable) -> Any:
    """functools.cache, but who asks while another works it out waits for that. What is raised is not kept."""
    cached, working = functools.cache(function), threading.Lock()

    @functools.wraps(function)
    def asked(*arguments):
        with working:
            return cached(*arguments)

    asked.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    return asked
