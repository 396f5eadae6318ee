"""Run doit, and send it a signal before its N-th change below the cache or output folder: `python inject.py N SIGNAL build:x ...`.

With N = 0 it only counts them. In the checkout that is the current folder; any command, any step. With --here the passes run
in this process, for graphs of thousands of steps.
"""

import atexit
import os
import sys
from pathlib import Path

CHANGES = {
    "os.rename",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.utime",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def install(at: int, number: int) -> None:
    roots = (os.environ["ONNXMAKE_OUTPUT"], os.environ["ONNXMAKE_CACHE"])
    seen = 0

    def hook(event: str, values: tuple) -> None:
        nonlocal seen
        writes = event in CHANGES or (event == "open" and values[2] & WRITING)
        if writes and str(values[0]).startswith(roots):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), number)

    if at == 0:
        atexit.register(lambda: print("changes", seen, flush=True))
    sys.addaudithook(hook)


def run_here() -> None:
    from onnxmake.build import runner
    from onnxmake.model import step

    def run(job: object, action: dict, *_) -> dict:
        work = Path(action["work"])
        names = ("pass", "file", "options", "may_skip")
        found = action | {"file": Path(action["file"])}
        return {"kept": step.run_pass(*(found[n] for n in names), work / "src", work / "out"), "memory": 0}

    runner.run = run


if __name__ == "__main__":
    install(int(sys.argv[1]), int(sys.argv[2]))
    sys.path[0] = os.getcwd()
    sys.argv = ["doit", *sys.argv[3:]]
    if "--here" in sys.argv:
        sys.argv.remove("--here")
        run_here()
    from doit.doit_cmd import DoitMain

    sys.exit(DoitMain().run(sys.argv[1:]))
