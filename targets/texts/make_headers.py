"""Write headers.jsonl, a text to tune on, and headers.txt, one to judge by: CPython 3.11's C headers, PSF-2.0.

    python3.11 targets/texts/make_headers.py

Each row is a file; every sixth file is kept out, and stands in headers.txt.
"""

import json
import sysconfig
from pathlib import Path

FOLD, LARGEST = 6, 12_000  # characters of a file at most: the largest are tables


def main() -> None:
    include = Path(sysconfig.get_paths()["include"])
    files = {path.name: path.read_text("utf-8") for path in sorted(include.glob("*.h"))}
    del files["pyconfig.h"]  # which differs from machine to machine
    names = [name for name, text in files.items() if len(text) <= LARGEST]
    held = names[::FOLD]
    rows = [{"name": name, "code": files[name]} for name in names if name not in held]
    here = Path(__file__).parent
    (here / "headers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (here / "headers.txt").write_text("\n\n".join(f"/* {name} */\n{files[name]}" for name in held), "utf-8")


if __name__ == "__main__":
    main()
