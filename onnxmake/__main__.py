"""`python -m onnxmake verify FOLDER [--key FILE]`: what a receiver asks of a release. Everything else is a task of doit."""

import argparse
import sys
from pathlib import Path

from onnxmake.errors import OnnxmakeError
from onnxmake.release import received


def main() -> int:
    """0 where all is right, 1 for the first thing that is off."""
    parser = argparse.ArgumentParser(prog="python -m onnxmake", description=__doc__)
    verify = parser.add_subparsers(required=True, metavar="verify").add_parser(
        "verify", help="is a release whole, and whose?"
    )
    verify.add_argument("folder", type=Path)
    verify.add_argument("--key", type=Path, help="the signer's public key, PEM; the release must be signed by it")
    given = parser.parse_args()
    try:
        for line in received.verify(given.folder, given.key):
            print(line)
    except OnnxmakeError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
