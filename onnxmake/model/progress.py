"""How a step tells its runner how far it is: one JSON line on standard output, a few times a second."""

import json
import sys
import time

PREFIX = "@onnxmake "
_last = 0.0


def tell(**message) -> None:
    sys.stdout.write(f"{PREFIX}{json.dumps(message)}\n")
    sys.stdout.flush()


def progress(done: int, total: int) -> None:
    """`done` of `total` bytes are through."""
    global _last
    if done >= total or time.monotonic() - _last > 0.1:
        _last = time.monotonic()
        tell(done=done, total=total)
