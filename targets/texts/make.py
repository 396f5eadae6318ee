"""Write calibration.txt: prose and code by turns, from CPython 3.11's documentation topics and standard library.

    python3.11 targets/texts/make.py

Nothing of targets/tiny/heldout.txt is in it.
"""

import sysconfig
from itertools import chain, zip_longest
from pathlib import Path
from pydoc_data.topics import topics

MODULES = (
    "argparse",
    "ast",
    "datetime",
    "decimal",
    "difflib",
    "doctest",
    "heapq",
    "inspect",
    "pathlib",
    "random",
    "statistics",
    "subprocess",
    "tarfile",
    "typing",
    "zipfile",
)
LENGTH, PIECE = 420_000, 6_000  # characters


def pieces(text: str) -> list[str]:
    return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]


def main() -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    prose = pieces("\n\n".join(topics[name] for name in sorted(topics)))
    code = [
        piece
        for group in zip_longest(*(pieces((library / f"{name}.py").read_text("utf-8")) for name in MODULES))
        for piece in group
        if piece
    ]
    text = "".join(chain.from_iterable(zip(prose, code)))[:LENGTH]
    (Path(__file__).parent / "calibration.txt").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
